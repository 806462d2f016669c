# RunPod: the "Container Start Command" of a template, as one line:
#   bash -c 'curl -fsSL --retry 5 "$BOOT_URL" -o /root/boot.py; python3 /root/boot.py; exec /start.sh'
# or this file, baked into an image. The command is the container's main process: /start.sh of RunPod's images (SSH, Jupyter)
# must stay. Secrets and BOOT_URL: the template's "Environment Variables" (HF_TOKEN={{ RUNPOD_SECRET_hf_token }}).
curl -fsSL --retry 5 "${BOOT_URL:-https://example.org/boot.py}" -o /root/boot.py
python3 /root/boot.py
exec /start.sh
