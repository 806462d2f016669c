"""The other twenty scripts: branches, loops, installers of every kind, trainers and servers, and helpers of people's own."""

from __future__ import annotations

from .pick import COMMIT, ELSEWHERE, HUB, Pick, quoted, repository_name


def tests_before_each_line(pick: Pick) -> str:
    one, two = pick.models(2)
    node = pick.nodes(1)[0]
    return f"""#!/bin/bash
cd /workspace/ComfyUI
[ -f models/{one.place} ] || wget -O models/{one.place} "{one.url}"
test -e "models/{two.place}" || curl -Lo "models/{two.place}" "{two.url}"
if [ ! -d custom_nodes/{repository_name(node)} ]; then
  git clone "{node}" custom_nodes/{repository_name(node)}
else
  git -C custom_nodes/{repository_name(node)} pull
fi
"""


def choice_by_name(pick: Pick) -> str:
    one, two = pick.models(2, "diffusion_models")
    vae = pick.model("vae")
    return f"""#!/bin/bash
D=/workspace/ComfyUI/models/diffusion_models
case "${{MODEL:-flux}}" in
  flux)
    wget -P $D {one.url}
    ;;
  wan|wan2)
    wget -P $D {two.url}
    ;;
  *) echo "unknown model"; exit 1 ;;
esac
wget -P /workspace/ComfyUI/models/vae {vae.url}
"""


def addresses_with_defaults(pick: Pick) -> str:
    one, two = pick.models(2)
    node = pick.nodes(1)[0]
    return f"""#!/bin/bash
ROOT="${{ROOT:=/workspace}}"
COMFY=${{COMFYUI_PATH:-$ROOT/ComfyUI}}
HF="${{HF_ENDPOINT:-{HUB}}}"
MODEL_URL="${{MODEL_URL:-{one.url}}}"
NODE_REPO=${{NODE_REPO-"{node}"}}
curl -L "$MODEL_URL" -o "$COMFY/models/{one.place}"
wget -O "$COMFY/models/{two.place}" "$HF{two.url.removeprefix(HUB)}"
git clone "$NODE_REPO" "$COMFY/custom_nodes/$(basename "$NODE_REPO")"
"""


def pip_in_its_forms(pick: Pick) -> str:
    one, two, three, four, five = pick.pip(5)
    program = pick.program()
    wheel = pick.url("https://wheels.example.org/flash_helper-1.0-py3-none-any.whl")
    return f"""#!/bin/bash
export UV_LINK_MODE=copy
uv venv /workspace/venv --python 3.11
source /workspace/venv/bin/activate
uv pip install "{one}" "{two}"
python -m pip install --no-cache-dir --upgrade "{three}"
/workspace/venv/bin/pip install "{four}" && pip3 install -q "{five}"
pip install {wheel}
git clone {program} /workspace/tool && cd /workspace/tool && uv pip install -r requirements.txt
"""


def conda_and_apt(pick: Pick) -> str:
    one, two = pick.pip(2)
    return f"""#!/bin/bash
sudo apt-get update -y
sudo DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
    {pick.apt(1)[0]} \\
    {pick.apt(1)[0]}
apt -qq -y install {pick.apt(1)[0]} > /dev/null
conda install -y -c conda-forge {pick.packages("nodejs")[0]}
pip install "{one}" "{two}"
npm install -g pm2
"""


def jobs_in_the_background(pick: Pick) -> str:
    lines = "".join(f'(wget -q "{each.url}" -O "$M/{each.place}" && echo ok) &\n' for each in pick.models(3))
    nodes = "".join(f"( cd $C/custom_nodes && git clone -q {each} ) & PIDS+=($!)\n" for each in pick.nodes(2))
    return f"""#!/bin/bash
C=/workspace/ComfyUI; M=$C/models
PIDS=()
{nodes}{lines}nohup wget -q -P $M/loras "{pick.model("loras", among=ELSEWHERE).url}" >/tmp/w.log 2>&1 &
for pid in "${{PIDS[@]}}"; do wait "$pid"; done
"""


def renamed_and_unpacked(pick: Pick) -> str:
    model = pick.model("clip_vision")
    packed = pick.url("https://github.com/lab42/inputs/releases/download/v3/inputs.zip")
    faces = pick.url(f"{HUB}/lab42/faces/resolve/main/antelope.tar.gz")
    return f"""#!/bin/bash
cd /workspace/ComfyUI/models/clip_vision
wget {model.url}
mv {model.name} vision.safetensors
cd /workspace
wget -q {packed} && unzip -o inputs.zip -d ComfyUI/input && rm inputs.zip
mkdir -p ComfyUI/models/insightface/models
wget -O antelope.tar.gz {faces}
tar -xzf antelope.tar.gz -C ComfyUI/models/insightface/models
"""


def older_template(pick: Pick) -> str:
    entries = quoted([each.url for each in pick.models(2, "checkpoints")])
    return f"""#!/bin/bash
# sourced by the image's init
DISK_GB_REQUIRED=30
MAMBA_PACKAGES=( )
PIP_PACKAGES=( {" ".join(f'"{each}"' for each in pick.pip(2))} )
NODES=(
{quoted(pick.nodes(2))})
CHECKPOINT_MODELS=(
{entries})
ESRGAN_MODELS=( "{pick.model("upscale_models").url}" )
CONTROLNET_MODELS=( "{pick.model("controlnet").url}" )
function provisioning_start() {{
    source /opt/ai-dock/etc/environment.sh
    provisioning_get_nodes
    provisioning_install_python_packages
    provisioning_get_models "${{WORKSPACE}}/storage/stable_diffusion/models/ckpt" "${{CHECKPOINT_MODELS[@]}}"
    provisioning_get_models "${{WORKSPACE}}/storage/stable_diffusion/models/esrgan" "${{ESRGAN_MODELS[@]}}"
}}
function provisioning_install_python_packages() {{
    if [ ${{#PIP_PACKAGES[@]}} -gt 0 ]; then micromamba -n comfyui run ${{PIP_INSTALL}} ${{PIP_PACKAGES[*]}}; fi
}}
function provisioning_get_models() {{
    if [[ -z $2 ]]; then return 1; fi
    dir="$1"; mkdir -p "$dir"; shift
    if [[ $DISK_GB_ALLOCATED -ge $DISK_GB_REQUIRED ]]; then arr=("$@"); else arr=("$1"); fi
    for url in "${{arr[@]}}"; do wget -qnc --content-disposition -P "$dir" "$url"; done
}}
provisioning_start
"""


def other_interface(pick: Pick) -> str:
    program = pick.repo("open-diffusers/webui")
    return f"""#!/bin/bash
UI=/workspace/webui
EXTENSIONS=(
{quoted([pick.repo("lab42/sd-tile-extension"), pick.repo("ellie-makes/sd-prompt-book")])})
git clone {program} $UI
for e in "${{EXTENSIONS[@]}}"; do git clone "$e" "$UI/extensions/${{e##*/}}"; done
wget -q -P "$UI/models/Stable-diffusion" "{pick.model("checkpoints").url}"
wget -q --content-disposition -P "$UI/models/Lora" "{pick.civitai()}"
"""


def chained_lines(pick: Pick) -> str:
    one, two = pick.nodes(2)
    model = pick.model()
    return f"""#!/bin/sh
apt-get update && \\
  apt-get install -y {" ".join(pick.apt(2))} && \\
  cd /workspace/ComfyUI/custom_nodes && \\
  git clone {one} && \\
  git clone --recursive {two}.git && \\
  pip install -r {repository_name(one)}/requirements.txt -r {repository_name(two)}/requirements.txt && \\
  pip install {pick.pip(1)[0].replace("<", " ").split()[0]} && \\
  cd ../models && wget --progress=dot:giga {model.url} --output-document={model.place}
"""


def addresses_through_a_pipe(pick: Pick) -> str:
    return f"""#!/bin/bash
URLS=(
{quoted([each.url for each in pick.models(3, "loras")])})
printf '%s\\n' "${{URLS[@]}}" | xargs -n 1 -P 4 wget -q -P /workspace/ComfyUI/models/loras
"""


def own_command_of_comfyui(pick: Pick) -> str:
    model = pick.model("checkpoints")
    return f"""#!/bin/bash
pip install {pick.packages("comfy-cli")[0]}
comfy --skip-prompt install --nvidia
comfy model download --url "{model.url}" --relative-path models/checkpoints --filename {model.name}
comfy node install comfyui-kjnodes
"""


def checkouts_of_commits(pick: Pick) -> str:
    one, two = pick.nodes(2)
    program = pick.program()
    name = repository_name(one)
    return f"""#!/bin/bash
cd /workspace
git clone -b dev --single-branch {program}.git tool
git -C tool submodule update --init --recursive
cd ComfyUI && git fetch --all && git checkout {COMMIT}
cd custom_nodes
git clone {one} && (cd {name} && git checkout {COMMIT})
git clone --branch v1.2 {two}
"""


def torch_from_its_index(pick: Pick) -> str:
    pick.packages("torch==2.7.1", "torchvision")
    return f"""#!/bin/bash
pip install torch==2.7.1 torchvision --index-url https://download.pytorch.org/whl/cu128
pip install --no-build-isolation "{pick.packages("sageattention")[0]}"
pip install --extra-index-url https://wheels.example.org/simple "{pick.packages("gguf")[0]}"
wget -P /workspace/ComfyUI/models/vae {pick.model("vae").url}
"""


def buckets_and_drives(pick: Pick) -> str:
    stored = pick.url("s3://studio-models/loras/house.safetensors")
    pick.url("https://drive.google.com/uc?id=1AbCdEfGhIjKlMnOpQrStUvWxYz0123456")
    return f"""#!/bin/bash
pip install {" ".join(pick.packages("awscli", "gdown"))}
aws s3 cp {stored} /workspace/ComfyUI/models/loras/
gdown 1AbCdEfGhIjKlMnOpQrStUvWxYz0123456 -O /workspace/ComfyUI/models/loras/from_drive.safetensors
wget -P /workspace/ComfyUI/models/vae "{pick.model("vae").url}"
"""


def trainer(pick: Pick) -> str:
    program = pick.repo("ellie-makes/lora-trainer")
    base = pick.url(f"{HUB}/open-diffusers/base-model")
    return f"""#!/bin/bash
set -e
cd /workspace
git clone --recursive {program}
cd {repository_name(program)}
pip install {" ".join(f'"{each}"' for each in pick.packages("accelerate", "peft"))}
pip install -r requirements.txt
git lfs install
git clone {base} models/base
"""


def server_of_a_language_model(pick: Pick) -> str:
    whole = pick.url(f"{HUB}/open-diffusers/chat-7b")
    return f"""#!/bin/bash
apt-get install -y {pick.apt(1)[0]}
pip install -U "{pick.packages("transformers>=4.45")[0]}" {pick.packages("huggingface-hub")[0]}
huggingface-cli download {whole.removeprefix(HUB + "/")} --exclude "*.pth"
curl -fsSL https://get.example.org/server.sh | sh
vllm serve {whole.removeprefix(HUB + "/")} --port 8000
"""


def array_by_its_name(pick: Pick) -> str:
    return f"""#!/bin/bash
LORAS=(
{quoted([each.url for each in pick.models(2, "loras")])})
ENCODERS=(
{quoted([each.url for each in pick.models(2, "text_encoders")])})
fetch_all() {{
  local -n list=$1
  local dir="/workspace/ComfyUI/models/$2"
  for url in "${{list[@]}}"; do wget -nc -P "$dir" "$url"; done
}}
fetch_all LORAS loras
fetch_all ENCODERS text_encoders
"""


def arrays_side_by_side(pick: Pick) -> str:
    models = pick.models(3)
    return f"""#!/bin/bash
URLS=(
{quoted([each.url for each in models])})
PLACES=(
{quoted([each.place for each in models])})
for ((i = 0; i < ${{#URLS[@]}}; i++)); do
  wget -O "/workspace/ComfyUI/models/${{PLACES[$i]}}" "${{URLS[$i]}}"
done
"""


def tried_again(pick: Pick) -> str:
    one, two = pick.models(2)
    node = pick.nodes(1)[0]
    return f"""#!/bin/bash
retry() {{ local n=$1; shift; for ((i=0; i<n; i++)); do "$@" && return 0; sleep 3; done; return 1; }}
log() {{ echo "[$(date)] $*"; }}
log "models from {HUB}"
retry 3 wget -O /workspace/ComfyUI/models/{one.place} "{one.url}"
retry 5 git clone {node} /workspace/ComfyUI/custom_nodes/{repository_name(node)}
until curl -fL -o /workspace/ComfyUI/models/{two.place} "{two.url}"; do sleep 5; done
"""


SCRIPTS = (
    tests_before_each_line, choice_by_name, addresses_with_defaults, pip_in_its_forms, conda_and_apt, jobs_in_the_background,
    renamed_and_unpacked, older_template, other_interface, chained_lines, addresses_through_a_pipe, own_command_of_comfyui,
    checkouts_of_commits, torch_from_its_index, buckets_and_drives, trainer, server_of_a_language_model, array_by_its_name,
    arrays_side_by_side, tried_again,
)  # fmt: skip
