#!/usr/bin/env bash
#wants: https://example.org/one.safetensors>ComfyUI/models/loras/one.safetensors https://example.org/two.safetensors>ComfyUI/models/loras/zwei.safetensors
#wants: https://civitai.com/api/download/models/99>ComfyUI/models/checkpoints/
#wants: https://example.org/up.pth>ComfyUI/models/upscale_models/up.pth https://example.org/a.bin>ComfyUI/models/ipadapter/a.bin
MODELS="/workspace/ComfyUI/models"
download() {
  local url="$1" dest="$2" name="${3:-$(basename "$1")}"
  mkdir -p "$dest"
  if [ -f "$dest/$name" ]; then echo "have $name"; return 0; fi
  aria2c -c -x 16 -s 16 -k 1M --console-log-level=error -d "$dest" -o "$name" "$url" || curl -fL "$url" -o "$dest/$name"
}
download "https://example.org/one.safetensors" "$MODELS/loras"
download "https://example.org/two.safetensors" "$MODELS/loras" zwei.safetensors
wget --content-disposition -P "$MODELS/checkpoints/" "https://civitai.com/api/download/models/99?token=${CIVITAI_TOKEN}"
declare -A FILES
for pair in "upscale_models https://example.org/up.pth" "ipadapter https://example.org/a.bin"; do
  set -- $pair
  download "$2" "$MODELS/$1"
done
