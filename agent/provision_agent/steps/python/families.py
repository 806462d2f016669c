"""Which distributions bring the same files, and the one without files that stands in the place of another. See `flavours`."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Collection, Dict, Mapping, NamedTuple, Tuple


class Family(NamedTuple):
    """Distributions that bring the *module*; the one that has most, and needs least of the machine, comes first."""

    module: str
    members: Tuple[str, ...]


FAMILIES = (
    Family(
        "cv2",
        (
            "opencv-contrib-python-headless",
            "opencv-contrib-python",
            "opencv-python-headless",
            "opencv-python",
        ),
    ),
    Family("onnxruntime", ("onnxruntime-gpu", "onnxruntime")),
)
HELD_BY = "HELD_BY"
"""A file in the metadata of a distribution without files: the name of the one that has them."""


def displaced(wanted: Collection[str], installed: Mapping[str, str]) -> Dict[str, str]:
    """Which of *wanted* need not be installed, since another one brings their files: by name, the name of that one.

    Args:
        wanted: Normalised names of what is to be installed.
        installed: Version by normalised name of what is there.
    """
    found: Dict[str, str] = {}
    for family in FAMILIES:
        present = [name for name in family.members if name in wanted or name in installed]
        found.update((name, present[0]) for name in present[1:] if name in wanted)
    return found


def stand_in(folder: str, name: str, version: str, kept: str) -> None:
    """Write metadata of the distribution *name*, which has no files and needs *kept*, into *folder*."""
    stem = f"{name.replace('-', '_')}-{version}.dist-info"
    os.makedirs(os.path.join(folder, stem), exist_ok=True)
    told = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Its files are those of {kept}.\n"
    )
    texts = {
        "METADATA": f"{told}Requires-Dist: {kept}\n",
        "INSTALLER": "provision\n",
        HELD_BY: f"{kept}\n",
    }
    record = f"{stem}/RECORD,,\n"
    for file, text in texts.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{stem}/{file},sha256={digest},{len(text.encode())}\n"
    for file, text in {**texts, "RECORD": record}.items():
        with open(os.path.join(folder, stem, file), "w", encoding="utf-8") as out:
            out.write(text)
