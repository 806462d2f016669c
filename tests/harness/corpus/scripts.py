"""Forty provisioning scripts in the styles that people write: arrays of a provider's template, and start scripts of pods."""

from __future__ import annotations

from .pick import HUB, Pick, quoted, repository_name

_TEMPLATE = """
function provisioning_start() {
    provisioning_get_apt_packages
    provisioning_get_nodes
    provisioning_get_pip_packages
    provisioning_get_files "${COMFYUI_DIR}/models/checkpoints" "${CHECKPOINT_MODELS[@]}"
    provisioning_get_files "${COMFYUI_DIR}/models/loras" "${LORA_MODELS[@]}"
    provisioning_get_files "${COMFYUI_DIR}/models/vae" "${VAE_MODELS[@]}"
    provisioning_get_files "${COMFYUI_DIR}/models/diffusion_models" "${DIFFUSION_MODELS[@]}"
}
function provisioning_get_apt_packages() {
    if [[ -n $APT_PACKAGES ]]; then sudo $APT_INSTALL ${APT_PACKAGES[@]}; fi
}
function provisioning_get_pip_packages() {
    if [[ -n $PIP_PACKAGES ]]; then pip install --no-cache-dir ${PIP_PACKAGES[@]}; fi
}
function provisioning_get_nodes() {
    for repo in "${NODES[@]}"; do
        dir="${repo##*/}"
        path="${COMFYUI_DIR}/custom_nodes/${dir}"
        if [[ -d $path ]]; then
            ( cd "$path" && git pull )
        else
            git clone "${repo}" "${path}" --recursive
        fi
        if [[ -e "${path}/requirements.txt" ]]; then pip install --no-cache-dir -r "${path}/requirements.txt"; fi
    done
}
function provisioning_get_files() {
    if [[ -z $2 ]]; then return 1; fi
    dir="$1"; mkdir -p "$dir"; shift
    arr=("$@")
    for url in "${arr[@]}"; do provisioning_download "${url}" "${dir}"; done
}
function provisioning_download() {
    if [[ -n $HF_TOKEN && $1 =~ huggingface ]]; then auth_token="$HF_TOKEN"; fi
    if [[ -n $auth_token ]]; then
        wget --header="Authorization: Bearer $auth_token" -qnc --content-disposition --show-progress -P "$2" "$1"
    else
        wget -qnc --content-disposition --show-progress -P "$2" "$1"
    fi
}
provisioning_start
"""


def template(pick: Pick) -> str:
    return (
        "#!/bin/bash\nsource /venv/main/bin/activate\nCOMFYUI_DIR=${WORKSPACE}/ComfyUI\n"
        f"APT_PACKAGES=(\n{quoted(pick.apt(2))})\nPIP_PACKAGES=(\n{quoted(pick.pip(3))})\nNODES=(\n{quoted(pick.nodes(3))})\n"
        f"CHECKPOINT_MODELS=(\n{quoted([pick.model('checkpoints').url, pick.civitai()])})\nLORA_MODELS=(\n    # none yet\n)\n"
        f'VAE_MODELS=( "{pick.model("vae").url}" )\nDIFFUSION_MODELS=(\n{quoted([each.url for each in pick.models(2, "diffusion_models")])})\n'
        + _TEMPLATE
    )


def template_with_empty_arrays(pick: Pick) -> str:
    return (
        "#!/bin/bash\nCOMFYUI_DIR=${WORKSPACE}/ComfyUI\nAPT_PACKAGES=()\nPIP_PACKAGES=()\nNODES=()\n"
        f"CHECKPOINT_MODELS=(\n{quoted([pick.model('checkpoints').url])})\nLORA_MODELS=()\nVAE_MODELS=()\nDIFFUSION_MODELS=()\n"
        + _TEMPLATE
    )


def pairs_over_two_lines(pick: Pick) -> str:
    entries = "".join(f'    "{each.url}\n    |$MODELS_DIR/{each.place}"\n' for each in pick.models(4))
    picture = pick.url("https://pictures.example.org/inputs/portrait.png")
    return f"""#!/bin/bash
set -euo pipefail
COMFYUI_DIR="${{WORKSPACE:-/workspace}}/ComfyUI"
MODELS_DIR="$COMFYUI_DIR/models"
HF_MODELS=(
{entries})
WGET_DOWNLOADS=(
    "{picture}
    |$COMFYUI_DIR/input/portrait.png"
)
"""


def pairs_with_blanks(pick: Pick) -> str:
    entries = quoted([f"{each.url} | $MODELS_DIR/{each.place}" for each in pick.models(4)])
    return f"""#!/bin/bash
MODELS_DIR=/workspace/ComfyUI/models
HF_MODELS=(
{entries})
for entry in "${{HF_MODELS[@]}}"; do
  url="$(echo "${{entry%%|*}}" | xargs)"; dest="$(echo "${{entry##*|}}" | xargs)"
  mkdir -p "$(dirname "$dest")"
  [[ -f $dest ]] || wget -q --show-progress -O "$dest" "$url"
done
"""


def defaults_merged_with_the_environment(pick: Pick) -> str:
    hub = "".join(f'    "{each.url}\n    |$MODELS_DIR/{each.place}"\n' for each in pick.models(3))
    civitai = f'    "{pick.civitai()}\n    |$MODELS_DIR/loras/ink.safetensors\n    |civitai"\n'
    return f"""#!/bin/bash
set -euo pipefail
WORKSPACE_DIR="${{WORKSPACE:-/workspace}}"
COMFYUI_DIR="${{WORKSPACE_DIR}}/ComfyUI"
MODELS_DIR="${{COMFYUI_DIR}}/models"
APT_PACKAGES=({" ".join(pick.apt(2))})
PIP_PACKAGES=({" ".join(f'"{each}"' for each in pick.pip(2))})
HF_MODELS_DEFAULT=(
{hub})
CIVITAI_MODELS_DEFAULT=(
{civitai})
WGET_DOWNLOADS_DEFAULT=()
merge_with_env() {{ local name="$1"; shift; printf '%s\\0' "$@"; }}
main() {{
    local -a hf_models=()
    while IFS= read -r -d '' entry; do
        [[ -n "$entry" ]] && hf_models+=("$entry")
    done < <(merge_with_env "HF_MODELS" "${{HF_MODELS_DEFAULT[@]}}")
    for entry in "${{hf_models[@]}}"; do
        IFS='|' read -r url output_path <<< "$entry"
        hf download "$url" --local-dir "$(dirname "$output_path")" &
    done
    wait
}}
main "$@"
"""


def repositories_with_path_and_ref(pick: Pick) -> str:
    first, second = pick.nodes(2)
    return f"""#!/bin/bash
WORKSPACE=/workspace
GIT_REPOS=(
  "{first}|${{WORKSPACE}}/ComfyUI/custom_nodes/{repository_name(first)}"
  "{second}|${{WORKSPACE}}/ComfyUI/custom_nodes/{repository_name(second)}|v1.2"
)
CIVITAI_MODELS=( "{pick.civitai()}|${{WORKSPACE}}/ComfyUI/models/loras/" )
for line in "${{GIT_REPOS[@]}}"; do
  IFS='|' read -r url path ref <<< "$line"
  git clone "$url" "$path"
  [ -n "$ref" ] && git -C "$path" checkout "$ref"
done
"""


def token_decides(pick: Pick) -> str:
    gated, free = pick.models(2, "diffusion_models")
    return f"""#!/bin/bash
COMFYUI_DIR=${{WORKSPACE}}/ComfyUI
UNET_MODELS=()
VAE_MODELS=( "{pick.model("vae").url}" )
CLIP_MODELS=( "{pick.model("text_encoders").url}" )
if provisioning_has_valid_hf_token; then
    UNET_MODELS+=("{gated.url}")
else
    UNET_MODELS+=("{free.url}")
fi
provisioning_get_files "${{COMFYUI_DIR}}/models/unet" "${{UNET_MODELS[@]}}"
"""


def repository_and_file(pick: Pick) -> str:
    entries = quoted([f"{each.repository}|{each.inside}|$MODELS/{each.folder}" for each in pick.models(3)])
    return f"""#!/usr/bin/env bash
MODELS=/workspace/ComfyUI/models
HF_MODELS=(
{entries})
for each in "${{HF_MODELS[@]}}"; do
  IFS='|' read -r repo file dest <<< "$each"
  huggingface-cli download "$repo" "$file" --local-dir "$dest"
done
"""


def pod_start(pick: Pick) -> str:
    node, other = pick.nodes(2)
    first, second = pick.models(2)
    return f"""#!/bin/bash
set -e
apt-get update && apt-get install -y {" ".join(pick.apt(3))}
cd /workspace
if [ ! -d "ComfyUI" ]; then
    git clone https://github.com/comfyanonymous/ComfyUI.git
fi
cd ComfyUI
pip install -r requirements.txt
pip install {" ".join(f'"{each}"' for each in pick.pip(2))}
cd custom_nodes
[ -d {repository_name(node)} ] || git clone {node}.git
git clone --depth 1 {other} && cd {repository_name(other)} && pip install -r requirements.txt && cd ..
cd ../models
wget -O {first.place} {first.url}
wget -c "{second.url}?download=true" -O "{second.place}"
cd /workspace/ComfyUI && python main.py --listen 0.0.0.0 --port 8188
"""


def pushed_folders(pick: Pick) -> str:
    node, model = pick.nodes(1)[0], pick.model("diffusion_models")
    return f"""
pip install -U "{pick.packages("huggingface-hub")[0]}"
huggingface-cli login --token $HF_TOKEN --add-to-git-credential
model="{model.url}"
pushd /workspace
    git clone http://github.com/comfyanonymous/ComfyUI
    pushd ComfyUI
        pushd models
            pushd diffusion_models
                wget --header "Authorization: Bearer $HF_TOKEN" $model &
            popd
        popd
        pip install -r requirements.txt
        pushd custom_nodes
            git clone {node}
            pushd {repository_name(node)}
                pip install -r requirements.txt
            popd
        popd
    popd
popd
apt-get install -y {pick.apt(1)[0]}
wait $(jobs -p)
"""


def wget_into_folders(pick: Pick) -> str:
    loras = " ".join(each.url for each in pick.models(2, "loras"))
    lines = "".join(f'wget -nc -P "$BASE/{each.folder}" "{each.url}" &\n' for each in pick.models(3))
    return f"""#!/bin/bash
BASE=/workspace/ComfyUI/models
wget -nc -P $BASE/loras {loras}
{lines}wget --content-disposition -P $BASE/loras "{pick.civitai()}"
wait
"""


def curl_in_its_forms(pick: Pick) -> str:
    one, two, three, four = pick.models(4)
    return f"""#!/bin/bash
cd /workspace/ComfyUI/models
curl -L --create-dirs -o {one.place} {one.url}
curl -fsSL -H "Authorization: Bearer ${{HF_TOKEN}}" --output "{two.place}" "{two.url}"
curl -L {three.url} > {three.place}
cd {four.folder} && curl -LO {four.url} && cd ..
curl -X POST "$WEBHOOK_URL" -d '{{"state": "done"}}'
"""


def aria_with_a_list(pick: Pick) -> str:
    one, *others = pick.models(4)
    listed = "".join(
        f"{each.url}\n  dir=/workspace/ComfyUI/models/{each.folder}\n  out={each.name}\n" for each in others
    )
    return f"""#!/bin/bash
apt-get -y install {pick.apt(1)[0]}
aria2c -x16 -s16 -k1M -c -d /workspace/ComfyUI/models/{one.folder} -o {one.name} "{one.url}"
aria2c -j4 -x8 -i - <<EOF
{listed}EOF
"""


def list_written_for_aria(pick: Pick) -> str:
    entries = quoted([f"{each.url}|${{MODELS_DIR}}/{each.place}" for each in pick.models(3)])
    rife = pick.url(f"{HUB}/lab42/frames/resolve/main/rife49.pth")
    return f"""#!/bin/bash
MODELS_DIR=/workspace/ComfyUI/models
HF_MODELS=(
{entries})
RIFE_URL="{rife}"
list=$(mktemp)
for model in "${{HF_MODELS[@]}}"; do
    url="${{model%%|*}}"; out="${{model##*|}}"
    echo "$url" >> "$list"
    echo "  dir=$(dirname "$out")" >> "$list"
done
echo "$RIFE_URL" >> "$list"
aria2c --input-file="$list" -x 16
"""


def hub_client(pick: Pick) -> str:
    one, two, three = pick.models(3)
    whole = pick.url(f"{HUB}/studio-north/portrait-kit")
    return f"""#!/bin/bash
pip install -q {pick.packages("huggingface-hub")[0]}
export HF_HUB_ENABLE_HF_TRANSFER=1
M=/workspace/ComfyUI/models
hf download {one.repository} {one.inside} --local-dir $M/{one.folder}
huggingface-cli download {two.repository} {two.inside} --local-dir "$M/{two.folder}" --local-dir-use-symlinks False
hf download {three.url.replace(HUB + "/", "hf://").replace("/resolve/main", "")} --local-dir $M/{three.folder}
hf download {whole.removeprefix(HUB + "/")} --include "*.safetensors" --local-dir $M/loras/kit
"""


def program_in_python(pick: Pick) -> str:
    one, two = pick.models(2)
    whole = pick.url(f"{HUB}/open-diffusers/tiny-pipeline")
    return f"""#!/bin/bash
pip install {" ".join(pick.packages("huggingface-hub", "accelerate"))}
python3 - <<'PY'
from huggingface_hub import hf_hub_download, snapshot_download
hf_hub_download(repo_id="{one.repository}", filename="{one.inside}", local_dir="/workspace/ComfyUI/models/{one.folder}")
hf_hub_download("{two.repository}", "{two.inside}",
                local_dir="/workspace/ComfyUI/models/{two.folder}")
snapshot_download(repo_id="{whole.removeprefix(HUB + "/")}", local_dir="/workspace/pipeline", ignore_patterns=["*.bin"])
PY
"""


def own_function(pick: Pick) -> str:
    calls = "".join(f'download "{each.url}" "$COMFY/models/{each.place}"\n' for each in pick.models(4))
    return f"""#!/bin/bash
COMFY="${{COMFY:-/workspace/ComfyUI}}"
download() {{
  local url="$1" dest="$2"
  mkdir -p "$(dirname "$dest")"
  if [ -s "$dest" ]; then echo "have $dest"; return; fi
  for try in 1 2 3; do
    if wget -q --show-progress -O "$dest.part" "$url"; then mv "$dest.part" "$dest"; return; fi
    sleep 5
  done
}}
{calls}"""


def map_of_places(pick: Pick) -> str:
    pairs = "".join(f'  ["{each.place}"]="{each.url}"\n' for each in pick.models(4))
    return f"""#!/bin/bash
declare -A MODELS=(
{pairs})
cd /workspace/ComfyUI/models || exit 1
for place in "${{!MODELS[@]}}"; do
  mkdir -p "$(dirname "$place")"
  curl -L -o "$place" "${{MODELS[$place]}}"
done
"""


def words_in_a_variable(pick: Pick) -> str:
    nodes = " ".join(pick.nodes(3))
    return f"""#!/bin/sh
NODES="{nodes}"
PKGS="{" ".join(pick.pip(2))}"
cd /workspace/ComfyUI/custom_nodes
for n in $NODES; do
  git clone $n || echo "no $n"
done
pip install $PKGS
"""


def lines_of_a_text(pick: Pick) -> str:
    rows = "".join(f"{each.url} {each.folder} {each.name}\n" for each in pick.models(3))
    return f"""#!/bin/bash
while read -r url folder name; do
  [ -z "$url" ] && continue
  wget -q -O "/workspace/ComfyUI/models/$folder/$name" "$url"
done <<'LIST'
{rows}LIST
"""


SCRIPTS = (
    template, template_with_empty_arrays, pairs_over_two_lines, pairs_with_blanks, defaults_merged_with_the_environment,
    repositories_with_path_and_ref, token_decides, repository_and_file, pod_start, pushed_folders, wget_into_folders, curl_in_its_forms,
    aria_with_a_list, list_written_for_aria, hub_client, program_in_python, own_function, map_of_places, words_in_a_variable, lines_of_a_text,
)  # fmt: skip
