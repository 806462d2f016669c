#!/bin/bash
#wants: https://github.com/cubiq/ComfyUI_essentials@ComfyUI/custom_nodes/ComfyUI_essentials https://github.com/foo/ComfyUI-Foo@ComfyUI/custom_nodes/ComfyUI-Foo
#wants: https://github.com/foo/tool.git@tool https://github.com/kijai/ComfyUI-WanVideoWrapper@ComfyUI/custom_nodes/ComfyUI-WanVideoWrapper
#wants: https://civitai.com/api/download/models/798204?type=Model&format=SafeTensor>ComfyUI/models/checkpoints/
#wants: https://example.org/a/wan.safetensors>ComfyUI/models/diffusion_models/wan.safetensors https://example.org/a/b.gguf>ComfyUI/models/diffusion_models/b.gguf
#wants: https://huggingface.co/x/y/resolve/main/vae/wan_2.1_vae.safetensors>ComfyUI/models/vae/wan_2.1_vae.safetensors
#wants: https://example.org/direct.safetensors>ComfyUI/models/checkpoints/direct.safetensors https://example.org/l1.safetensors>ComfyUI/models/loras/l1.safetensors
#wants: https://example.org/l2.safetensors>ComfyUI/models/loras/l2.safetensors https://example.org/v.safetensors>ComfyUI/models/vae/v.safetensors
#wants: https://example.org/unet.gguf>ComfyUI/models/unet/u.gguf https://example.org/big.safetensors>ComfyUI/models/unet/big.safetensors
#wants: apt:aria2 apt:ffmpeg apt:libgl1 pip:sageattention pip:transformers>=4.40 pip:git+https://github.com/foo/bar.git file:ComfyUI/extra_model_paths.yaml
set -e
source /venv/main/bin/activate
COMFYUI_DIR=${WORKSPACE}/ComfyUI
APT_PACKAGES=( "aria2" )
NODES=(
  "https://github.com/ltdrdata/ComfyUI-Manager"
  "https://github.com/cubiq/ComfyUI_essentials"
)
CHECKPOINT_MODELS=( "https://civitai.com/api/download/models/798204?type=Model&format=SafeTensor" )
MY_FILES=( "https://example.org/a/wan.safetensors" "https://example.org/a/b.gguf" )
HF_MODELS=(
  "https://huggingface.co/x/y/resolve/main/vae/wan_2.1_vae.safetensors | $COMFYUI_DIR/models/vae/wan_2.1_vae.safetensors"
  "owner/repo|sub/file.safetensors|$COMFYUI_DIR/models/loras"
)
CIVITAI_MODELS=( "https://civitai.com/models/123?modelVersionId=456|$COMFYUI_DIR/models/loras/" )
GIT_REPOS=( "https://github.com/kijai/ComfyUI-WanVideoWrapper|$COMFYUI_DIR/custom_nodes/ComfyUI-WanVideoWrapper" )

function provisioning_start() {
    provisioning_get_apt_packages
    provisioning_get_nodes
    provisioning_get_files "${COMFYUI_DIR}/models/checkpoints" "${CHECKPOINT_MODELS[@]}"
    provisioning_get_files "${COMFYUI_DIR}/models/diffusion_models" "${MY_FILES[@]}"
    for item in "${HF_MODELS[@]}"; do
      url="${item%%|*}"; dest="${item##*|}"
      url=$(echo "$url" | xargs); dest=$(echo "$dest" | xargs)
      wget -q -O "$dest" "$url"
    done
}
function provisioning_get_apt_packages() {
    if [[ -n $APT_PACKAGES ]]; then sudo $APT_INSTALL ${APT_PACKAGES[@]}; fi
    apt-get update && apt-get install -y --no-install-recommends ffmpeg libgl1
}
function provisioning_get_nodes() {
    for repo in "${NODES[@]}"; do
        dir="${repo##*/}"
        path="${COMFYUI_DIR}/custom_nodes/${dir}"
        requirements="${path}/requirements.txt"
        if [[ -d $path ]]; then
            if [[ ${AUTO_UPDATE,,} != "false" ]]; then
                ( cd "$path" && git pull )
                if [[ -e $requirements ]]; then pip install --no-cache-dir -r "$requirements"; fi
            fi
        else
            git clone "${repo}" "${path}" --recursive
            if [[ -e $requirements ]]; then pip install --no-cache-dir -r "${requirements}"; fi
        fi
    done
}
function provisioning_get_files() {
    if [[ -z $2 ]]; then return 1; fi
    dir="$1"
    mkdir -p "$dir"
    shift
    arr=("$@")
    for url in "${arr[@]}"; do
        provisioning_download "${url}" "${dir}"
    done
}
function provisioning_download() {
    if [[ -n $HF_TOKEN && $1 =~ ^https://([a-zA-Z0-9_-]+\.)?huggingface\.co(/|$|\?) ]]; then
        auth_token="$HF_TOKEN"
    fi
    if [[ -n $auth_token ]];then
        wget --header="Authorization: Bearer $auth_token" -qnc --content-disposition --show-progress -e dotbytes="${3:-4M}" -P "$2" "$1"
    else
        wget -qnc --content-disposition --show-progress -e dotbytes="${3:-4M}" -P "$2" "$1"
    fi
}
cd /workspace/ComfyUI/custom_nodes
git clone https://github.com/foo/ComfyUI-Foo && cd ComfyUI-Foo && git checkout v1.2 && pip install -r requirements.txt
cd ../..
git clone -b dev https://github.com/foo/tool.git /workspace/tool
wget -c https://example.org/direct.safetensors -O models/checkpoints/direct.safetensors
wget -P models/loras https://example.org/l1.safetensors https://example.org/l2.safetensors
curl -L -o models/vae/v.safetensors https://example.org/v.safetensors
aria2c -x16 -s16 -d /workspace/ComfyUI/models/unet -o u.gguf "https://example.org/unet.gguf"
hf download Comfy-Org/thing split/a.safetensors --local-dir models/text_encoders
huggingface-cli download Wan-AI/Wan2.1 --include "*.safetensors" --local-dir /workspace/wan
pip install sageattention "transformers>=4.40" torch==2.7.1
uv pip install --system git+https://github.com/foo/bar.git
curl -fsSL https://get.example.org/install.sh | bash
curl -X POST https://hooks.example.org/x -d '{}'
if [ "$BIG" = 1 ]; then
  wget -O models/unet/big.safetensors https://example.org/big.safetensors
else
  wget -O models/unet/small.safetensors https://example.org/small.safetensors
fi
cat > extra_model_paths.yaml <<XX
a: 1
XX
provisioning_start
