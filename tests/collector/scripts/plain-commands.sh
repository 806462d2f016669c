#!/bin/bash
#wants: https://github.com/a/ComfyUI-Tools.git@ComfyUI/custom_nodes/ComfyUI-Tools https://github.com/b/nodes@ComfyUI/custom_nodes/nodes
#wants: https://huggingface.co/o/r/resolve/main/flux.safetensors>ComfyUI/models/diffusion_models/flux.safetensors
#wants: https://huggingface.co/o/r/resolve/main/ae.safetensors?download=true>ComfyUI/models/vae/ae.safetensors
#wants: https://huggingface.co/o/r/resolve/main/clip_l.safetensors>ComfyUI/models/clip/clip_l.safetensors
#wants: apt:git apt:wget apt:libgl1-mesa-glx pip:insightface==0.7.3 pip:onnxruntime-gpu
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -yqq --no-install-recommends git wget \
    libgl1-mesa-glx
cd /workspace
[ -d ComfyUI ] || git clone https://github.com/comfyanonymous/ComfyUI.git
cd ComfyUI
python3 -m venv venv && source venv/bin/activate
pip install -r requirements.txt
pip install --no-cache-dir "insightface==0.7.3" onnxruntime-gpu
cd custom_nodes
git clone --depth 1 https://github.com/a/ComfyUI-Tools.git
(git clone https://github.com/b/nodes && cd nodes && pip install -r requirements.txt) || true
cd ..
if [ ! -f models/diffusion_models/flux.safetensors ]; then
  wget --header "Authorization: Bearer ${HF_TOKEN}" -q --show-progress -O models/diffusion_models/flux.safetensors \
    "https://huggingface.co/o/r/resolve/main/flux.safetensors"
fi
curl -L --create-dirs -H "Authorization: Bearer $HF_TOKEN" --output models/vae/ae.safetensors "https://huggingface.co/o/r/resolve/main/ae.safetensors?download=true" &
wget -nc -P /workspace/ComfyUI/models/clip https://huggingface.co/o/r/resolve/main/clip_l.safetensors
wait
python main.py --listen 0.0.0.0 --port 8188
