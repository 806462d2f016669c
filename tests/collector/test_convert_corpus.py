"""A corpus of what people have: what its scripts, manifests, snapshots and workflows hold becomes items, or is listed with its place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from harness.corpus import KINDS, entries
from harness.corpus.measure import Result, measured, table
from provision_collector.convert.files import MOST_SCRIPT_BYTES, from_file
from provision_collector.convert.shell_walk import MOST_ENTRIES
from provision_collector.errors import ProfileError

pytestmark = pytest.mark.timeout(120)  # of a busy disk; nothing waits for it


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, ...]:
    folder = tmp_path_factory.mktemp("corpus")
    return tuple(measured(entry, folder) for entry in entries())


def test_the_corpus_is_as_large_as_it_says_and_no_two_entries_are_alike() -> None:
    assert Counter(entry.kind for entry in entries()) == {
        "script": 40,
        "manifest": 20,
        "snapshot": 10,
        "workflow": 60,
    }
    assert len({entry.content for entry in entries()}) == len({entry.name for entry in entries()}) == 130


@pytest.mark.parametrize("kind", KINDS)
def test_nine_tenths_of_what_a_kind_holds_become_items_and_nothing_of_it_is_lost(
    kind: str, results: tuple[Result, ...]
) -> None:
    of_kind = [result for result in results if result.entry.kind == kind]
    held = [each for result in of_kind for each in result.entry.holds if not each.startswith("named:")]
    items = [each for result in of_kind for each in result.items]

    assert [(result.entry.name, result.lost) for result in of_kind if result.lost] == []
    assert [(result.entry.name, result.without_place) for result in of_kind if result.without_place] == []
    assert len(items) >= 0.9 * len(held), table(of_kind)


@pytest.mark.parametrize(
    "kinds", [("url",), ("repo",), ("pip", "apt")], ids=["addresses", "repositories", "packages"]
)
def test_each_of_them_reaches_nine_tenths(kinds: tuple[str, ...], results: tuple[Result, ...]) -> None:
    held = [each for result in results for each in result.entry.holds if each.partition(":")[0] in kinds]
    items = [each for result in results for each in result.items if each.partition(":")[0] in kinds]

    assert len(items) >= 0.9 * len(held) > 50, table(results)


def test_the_table_has_a_row_for_each_kind_and_one_for_all(results: tuple[Result, ...]) -> None:
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table(results).splitlines()]

    assert [row[0] for row in rows[2:]] == [f"{kind}s" for kind in KINDS] + ["all"]
    assert (rows[-1][1], rows[-1][-1]) == ("130", "0")


PLACES = {
    "renamed": "cd /workspace/ComfyUI/models/vae\nwget https://e.org/a.safetensors\nmv a.safetensors b.safetensors\n",
    "renamed over folders": "wget -O x.pt https://e.org/a.pt\nmv x.pt ComfyUI/models/vae/\n",
    "popd": "pushd ComfyUI\npushd models/vae\npopd\nwget -P models/vae https://e.org/a.safetensors\n",
    "a condition": "if ! wget -P ComfyUI/models/vae https://e.org/a.safetensors; then exit 1; fi\n",
    "messages of wget": "wget -P ComfyUI/models/vae https://e.org/a.safetensors > /tmp/log 2>&1\n",
    "xargs": 'U=("https://e.org/a.safetensors")\nprintf "%s\\n" "${U[@]}" | sort | xargs -n1 -P4 wget -P ComfyUI/models/vae\n',
    "parallel": "parallel -j 4 wget -P ComfyUI/models/vae {} ::: https://e.org/a.safetensors\n",
    "a list in a file": "echo https://e.org/a.safetensors >> /tmp/l\nwget -P ComfyUI/models/vae -i /tmp/l\n",
    "another name of an array": 'U=(https://e.org/a.safetensors)\nf() { local -n l=$1; for u in "${l[@]}"; do wget -P ComfyUI/models/vae "$u"; done; }\nf U\n',
    "counted": "U=(https://e.org/a.safetensors)\nfor ((i = 0; i < ${#U[@]}; i++)); do wget -P ComfyUI/models/vae ${U[i]}; done\n",
    "lines through a pipe": "echo https://e.org/a.safetensors | while read -r u; do wget -P ComfyUI/models/vae $u; done\n",
    "a part that is not set": "wget -P ComfyUI/models/vae https://e.org/a${SUFFIX:+-$SUFFIX}.safetensors\n",
}


@pytest.mark.parametrize("form", PLACES)
def test_a_file_goes_where_the_script_has_it_in_the_end(form: str, tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_text(PLACES[form])

    [item] = from_file(tmp_path / "x.sh").listed("downloads")

    assert str(item["url"]).startswith("https://e.org/a.")
    assert str(item["path"]).startswith("ComfyUI/models/vae/")


def test_an_archive_that_is_unpacked_elsewhere_is_put_there(tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_text("wget https://e.org/a.zip && unzip -o a.zip -d ComfyUI/input\n")

    [item] = from_file(tmp_path / "x.sh").listed("downloads")

    assert item == {"url": "https://e.org/a.zip", "path": "ComfyUI/input/a.zip", "unpack": True}


def test_an_array_that_is_empty_and_a_function_that_nobody_calls_leave_nothing_open(tmp_path: Path) -> None:
    script = 'NODES=()\nfor r in "${NODES[@]}"; do git clone "$r" "x/${r##*/}"; done\nd() { wget -O "$2" "$1"; pip install $3; }\n'
    (tmp_path / "x.sh").write_text(script)

    assert len(from_file(tmp_path / "x.sh").unresolved) == 1  # the sentence that every script has


def test_a_script_beyond_all_bounds_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_text("#!/bin/bash\nwget https://e.org/" + "a" * MOST_SCRIPT_BYTES)

    with pytest.raises(ProfileError, match=r"x\.sh:1:1: more than 2 MiB of a script"):
        from_file(tmp_path / "x.sh")


def test_an_array_without_measure_is_cut_and_that_is_said(tmp_path: Path) -> None:
    entries_ = " ".join(f"https://e.org/{number}.pt" for number in range(MOST_ENTRIES + 1))
    (tmp_path / "x.sh").write_text(f"VAE_MODELS=( {entries_} )\n")
    made = from_file(tmp_path / "x.sh")

    assert len(made.listed("downloads")) == MOST_ENTRIES
    assert any("longer than anybody follows" in sentence for sentence in made.unresolved)


def test_programs_in_a_script_are_read_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    script = (
        f'A=$(touch {mark})\n`touch {mark}`\nwget "https://e.org/$(touch {mark})"\n'
        f"python3 -c \"from huggingface_hub import x; __import__('os').system('touch {mark}')\"\n"
        f'python3 - <<X\nfrom huggingface_hub import snapshot_download\n{"(" * 5000}\nX\npip install "$(touch {mark})"\n'
    )
    (tmp_path / "x.sh").write_text(script)
    made = from_file(tmp_path / "x.sh")

    assert not mark.exists()
    assert made.listed("downloads") == [] and len(made.unresolved) == 6, made.unresolved


def test_the_other_branch_of_an_if_over_arrays_is_said(tmp_path: Path) -> None:
    script = 'if ok; then\nVAE_MODELS+=("https://e.org/a.pt")\nelse\nVAE_MODELS+=("https://e.org/b.pt")\nfi\n'
    (tmp_path / "x.sh").write_text(script)
    made = from_file(tmp_path / "x.sh")

    assert [item["url"] for item in made.listed("downloads")] == ["https://e.org/a.pt"]
    assert any("`else` would bring `https://e.org/b.pt`" in sentence for sentence in made.unresolved)


@pytest.mark.parametrize(
    ("line", "extends"),
    [
        ("git clone https://github.com/a/trainer", None),
        ("git clone https://github.com/a/b ComfyUI/custom_nodes/b", "comfyui-base"),
    ],
)
def test_a_script_that_is_not_about_comfyui_brings_none(
    line: str, extends: str | None, tmp_path: Path
) -> None:
    (tmp_path / "x.sh").write_text(f"{line}\npip install torch==2.7.1 --index-url https://e.org/$CU\n")
    made = from_file(tmp_path / "x.sh")

    assert made.profile.get("extends") == extends
    assert any("--extra-index-url=https://e.org/$CU" in sentence for sentence in made.unresolved)
    assert ("torch==2.7.1" in made.to_yaml(comment="").partition("\nversion:")[2]) is (extends is None)
