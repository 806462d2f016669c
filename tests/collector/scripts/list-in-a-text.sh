#!/bin/bash
#wants: https://example.org/a.safetensors>ComfyUI/models/checkpoints/a.safetensors https://example.org/b.safetensors>ComfyUI/models/loras/b.safetensors
#wants: hf://o/whole>ComfyUI/models/diffusers/ hf://o/part/f.safetensors>models-of-mine/f.safetensors pip:hf_transfer pip:huggingface_hub
pip install -U "huggingface_hub" hf_transfer
cd "$WORKSPACE/ComfyUI"
while read -r url folder; do
  wget -nc "$url" -P "models/$folder"
done <<'LIST'
https://example.org/a.safetensors checkpoints
https://example.org/b.safetensors loras
LIST
hf download o/whole --local-dir models/diffusers
huggingface-cli download o/part f.safetensors --local-dir /workspace/models-of-mine --token "$HF_TOKEN"
tar xzf <(curl -sL https://example.org/workflows.tar.gz) -C user/
echo "see https://docs.example.org/help"
