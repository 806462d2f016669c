"""What a file is, by its first bytes and by its name; in words for people. Pure."""

from __future__ import annotations

import os
import re
import struct
from typing import Callable, Dict, NamedTuple, Optional, Tuple

MAX_SAFETENSORS_HEADER = 100_000_000
ENOUGH_BYTES = 512
"""With so many of its first bytes every format here is told from every other one."""

Test = Callable[[bytes], bool]


def _starts(*magics: bytes, at: int = 0) -> Test:
    return lambda head: head[at:].startswith(magics)


def _is_safetensors(head: bytes) -> bool:
    """A length in 8 bytes, and JSON that long."""
    length = struct.unpack_from("<Q", head)[0] if len(head) >= 8 else 0
    return 2 <= length <= MAX_SAFETENSORS_HEADER and head[8:9] == b"{"


def _is_plain_text(head: bytes) -> bool:
    decoded = head[:512].decode("utf-8", "replace").rstrip("\ufffd")  # the last character may be cut
    return bool(decoded) and "\ufffd" not in decoded and is_text(head)


def _is_pickle(head: bytes) -> bool:
    """As torch wrote its checkpoints before they were zip archives: a protocol from 2 to 5."""
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


_HTML = re.compile(rb"^(?:\xef\xbb\xbf)?\s*<\s*(?:!doctype\s+html|html|head|body|!--|script|title)", re.I)
_XML = re.compile(rb"^(?:\xef\xbb\xbf)?\s*<\s*(?:!doctype|\?xml|error)", re.I)
_JSON = re.compile(rb"^\s*[\[{]\s*(?:[\]}\"\[{]|$)")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LOGIN = re.compile(
    rb"<title>[^<]*(?:log[ -]?in|sign[ -]?in)|type=[\"']?password|(?:please|must) (?:log|sign) ?in|>\s*(?:log|sign) ?in\b",
    re.I,
)


def is_text(head: bytes) -> bool:
    """No byte in it that text has not."""
    sample = head[:512]
    return b"\0" not in sample and sum(byte < 9 or 13 < byte < 32 for byte in sample) == 0


_KINDS: Dict[str, Test] = {
    "a pointer of git-LFS, not the file it stands for": _starts(_LFS_POINTER),
    "an HTML page": lambda head: _HTML.match(head) is not None,
    "an XML text": lambda head: _XML.match(head) is not None,
    "a JSON text": lambda head: is_text(head) and _JSON.match(head) is not None,
    "a safetensors file": _is_safetensors,
    "a GGUF file": _starts(b"GGUF"),
    "a PNG image": _starts(b"\x89PNG\r\n\x1a\n"),
    "a JPEG image": _starts(b"\xff\xd8\xff"),
    "a GIF image": _starts(b"GIF87a", b"GIF89a"),
    "a WebP image": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "a WAV sound": lambda head: head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE",
    "a zip archive": _starts(b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"),
    "a 7-Zip archive": _starts(b"7z\xbc\xaf\x27\x1c"),
    "a RAR archive": _starts(b"Rar!\x1a\x07"),
    "a tar archive": _starts(b"ustar", at=257),
    "what gzip compressed": _starts(b"\x1f\x8b"),
    "what xz compressed": _starts(b"\xfd7zXZ\x00"),
    "what bzip2 compressed": _starts(b"BZh"),
    "what zstd compressed": _starts(b"\x28\xb5\x2f\xfd"),
    "a NumPy array": _starts(b"\x93NUMPY"),
    "an HDF5 file": _starts(b"\x89HDF\r\n\x1a\n"),
    "a Parquet file": _starts(b"PAR1"),
    "a PDF document": _starts(b"%PDF-"),
    "an MP4 video": _starts(b"ftyp", at=4),
    "a Matroska video": _starts(b"\x1a\x45\xdf\xa3"),
    "a program": _starts(b"\x7fELF", b"MZ\x90\x00"),
    "a pickle of Python": _is_pickle,
    "text": _is_plain_text,
}
"""How a file begins that is one of these; the first that fits is it."""
_IMAGES = ("a PNG image", "a JPEG image", "a GIF image", "a WebP image")
_WRAPPED = ("what gzip compressed", "what xz compressed", "what bzip2 compressed", "what zstd compressed")


POINTER, PAGE = "a pointer of git-LFS, not the file it stands for", "an HTML page"
PAGES = (POINTER, PAGE, "an XML text", "a JSON text")
"""No binary file is one of these."""


class Format(NamedTuple):
    """What names of some suffixes promise."""

    name: str
    """As people say it: ``a safetensors file``."""
    suffixes: Tuple[str, ...]
    kinds: Tuple[str, ...]
    """What such a file may begin as; empty: there is no telling."""
    has_others: bool = False
    """It may also begin as nothing that is known here."""


_FORMATS = (
    Format("a safetensors file", (".safetensors", ".sft"), ("a safetensors file",)),
    Format("a GGUF file", (".gguf",), ("a GGUF file",)),
    Format(
        "a PyTorch checkpoint",
        (".pt", ".pth", ".ckpt"),
        ("a zip archive", "a pickle of Python", "a tar archive"),
        has_others=True,
    ),
    Format("a zip archive", (".zip", ".whl", ".npz"), ("a zip archive",)),
    Format("a compressed file", (".gz", ".tgz", ".xz", ".bz2", ".zst"), (*_WRAPPED, "a tar archive")),
    Format("a 7-Zip archive", (".7z",), ("a 7-Zip archive",)),
    Format("a RAR archive", (".rar",), ("a RAR archive",)),
    Format("an image", (".png", ".jpg", ".jpeg", ".gif", ".webp"), _IMAGES),
    Format("a video", (".mp4", ".m4v", ".mov"), ("an MP4 video",), has_others=True),
    Format("a video", (".mkv", ".webm"), ("a Matroska video",)),
    Format("a WAV sound", (".wav",), ("a WAV sound",)),
    Format("a NumPy array", (".npy",), ("a NumPy array",)),
    Format("a Parquet file", (".parquet",), ("a Parquet file",)),
    Format("a PDF document", (".pdf",), ("a PDF document",)),
    Format(
        "a binary file",
        (
            ".bin",
            ".dat",
            ".engine",
            ".flac",
            ".ggml",
            ".h5",
            ".hdf5",
            ".mp3",
            ".msgpack",
            ".nemo",
            ".onnx",
            ".otf",
            ".ot",
            ".param",
            ".pb",
            ".pickle",
            ".pkl",
            ".plan",
            ".tar",
            ".tflite",
            ".ttf",
        ),
        (),
    ),
)


def promised_by(name: str) -> Optional[Format]:
    """The binary format that the file's *name* promises; None where it may be text, or anything."""
    suffix = os.path.splitext(name)[1].lower()
    return next((each for each in _FORMATS if suffix in each.suffixes), None)


def kind_of(head: bytes) -> Optional[str]:
    """What a file that begins with *head* is; None when that cannot be told."""
    return next((name for name, is_one in _KINDS.items() if is_one(head)), None)


def suits(format_: Format, head: bytes, kind: Optional[str]) -> bool:
    """May a file of *kind* that begins with *head* be a *format_*?"""
    if any(_KINDS[name](head) for name in format_.kinds):
        return True
    if kind in PAGES:
        return False
    return not format_.kinds or (format_.has_others and kind is None)


def is_login(head: bytes) -> bool:
    """Does this page ask who is there?"""
    return _LOGIN.search(head) is not None
