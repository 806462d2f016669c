# Vast.ai: the "On-start Script" of a template (launch mode SSH). It runs at every start of the instance, and leaves.
# Secrets: `-e HF_TOKEN=…` in the template's "Docker Options", or the variables of your account.
# BOOT_URL: where the file of `provision bundle PROFILE -o boot.py` can be fetched; it holds no secret.
BOOT_URL="${BOOT_URL:-https://example.org/boot.py}"
curl -fsSL --retry 5 "$BOOT_URL" -o /root/boot.py
python3 /root/boot.py
