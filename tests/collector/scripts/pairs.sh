#!/bin/bash
#wants: https://huggingface.co/o/a/resolve/main/x.safetensors>ComfyUI/models/vae/x.safetensors https://huggingface.co/o/b/resolve/main/y.safetensors>ComfyUI/models/loras/why.safetensors
#wants: https://civitai.com/api/download/models/5>ComfyUI/models/loras/five.safetensors https://example.org/pic.png>ComfyUI/input/pic.png
#wants: https://github.com/k/Wrapper@ComfyUI/custom_nodes/Wrapper hf://o/d/m.safetensors>ComfyUI/models/text_encoders/m.safetensors
COMFYUI_DIR="${WORKSPACE:-/workspace}/ComfyUI"
MODELS_DIR="$COMFYUI_DIR/models"
HF_MODELS=(
  "https://huggingface.co/o/a/resolve/main/x.safetensors|$MODELS_DIR/vae/x.safetensors"
  "https://huggingface.co/o/b/resolve/main/y.safetensors
  | $MODELS_DIR/loras/why.safetensors"
)
CIVITAI_MODELS=( "https://civitai.com/api/download/models/5|${MODELS_DIR}/loras/five.safetensors" )
WGET_DOWNLOADS=( "https://example.org/pic.png | $COMFYUI_DIR/input/pic.png" )
GIT_REPOS=( "https://github.com/k/Wrapper|$COMFYUI_DIR/custom_nodes/Wrapper" )
HF_FILES=( "o/d|m.safetensors|$MODELS_DIR/text_encoders" )
main() {
  local entry url path
  for entry in "${HF_MODELS[@]}" "${WGET_DOWNLOADS[@]}"; do
    IFS='|' read -r url path <<< "$entry"
    url=$(echo "$url" | xargs); path=$(echo "$path" | xargs)
    mkdir -p "$(dirname "$path")"
    wget -q "$url" -O "$path"
  done
  for entry in "${GIT_REPOS[@]}"; do
    git clone "${entry%%|*}" "${entry#*|}"
  done
}
main "$@"
