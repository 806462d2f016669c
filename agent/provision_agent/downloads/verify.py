"""Is this the file that was wanted? Looked at before it may take its final name.

Refused: pages and error texts that came with status 200, pointers to files kept elsewhere, and files that
end before their own header says they do.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from dataclasses import dataclass
from typing import Callable, List, Optional, Tuple

from ..contract.failures import Failure
from ..contract.parsing import ParseError, parse, read_object
from .http.errors import quoted

MAX_SAFETENSORS_HEADER = 100_000_000
TEXT_SUFFIXES = frozenset(
    [
        ".txt",
        ".md",
        ".json",
        ".jsonl",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".cfg",
        ".csv",
        ".tsv",
        ".html",
        ".htm",
        ".xml",
        ".svg",
        ".py",
        ".sh",
        ".js",
        ".css",
        ".vocab",
        ".merges",
        ".model",
    ]
)
"""Files that may well be text, a page or JSON."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGE = re.compile(
    rb"^(?:\xef\xbb\xbf)?\s*<\s*(?:!doctype|html|head|body|\?xml|!--|error|script|title)", re.I
)
_JSON = re.compile(rb"^\s*[\[{]\s*(?:[\]}\"\[{]|$)")
_ZIP_END = b"PK\x05\x06"
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_END_BYTES = 22 + 65535
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class _Tensor:
    """What is relied on of an entry of a safetensors header."""

    data_offsets: Tuple[int, ...]

    @property
    def end(self) -> int:
        """Where its bytes end, counted from the end of the header."""
        if len(self.data_offsets) != 2:
            raise ParseError("a range has two ends")
        return self.data_offsets[1]


def refuse_page(
    head: bytes,
    name: str,
    content_type: Optional[str] = None,
    secrets: Optional[List[str]] = None,
    *,
    url: str = "",
) -> None:
    """Raise if a file that begins with *head* is surely not what its *name* says.

    Raises:
        Failure: `not_a_model`, with the beginning of what came instead.
    """
    if head.startswith(_LFS_POINTER):
        raise _not_a_model("a git-LFS pointer, not the file it stands for", head, secrets)
    if is_text_name(name):
        return
    kind = (content_type or "").split(";")[0].strip().lower()
    if _PAGE.match(head) or (kind in ("text/html", "application/xhtml+xml") and _is_text(head)):
        raise _not_a_model("a web page", head, secrets)
    if _is_text(head) and (
        _JSON.match(head) or (head and kind in ("application/json", "application/problem+json"))
    ):
        raise _not_a_model("a JSON text", head, secrets)


def check_format(descriptor: int, name: str, size_bytes: int, secrets: Optional[List[str]] = None) -> None:
    """Raise if the whole file behind *descriptor* does not hold what its *name* promises.

    Raises:
        Failure: `not_a_model` or `truncated`.
    """
    head = os.pread(descriptor, 1024, 0)
    refuse_page(head, name, secrets=secrets)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in (".safetensors", ".sft"):
        _check_safetensors(descriptor, head, size_bytes, secrets)
    elif suffix == ".gguf" and not head.startswith(b"GGUF"):
        raise _not_a_model("no GGUF file", head, secrets)
    elif suffix == ".zip" and not head.startswith(_ZIP_STARTS):
        raise _not_a_model("no zip archive", head, secrets)
    elif suffix in (".zip", ".pt", ".pth", ".ckpt") and head.startswith(_ZIP_STARTS):
        _check_zip_end(descriptor, size_bytes)


def sha256_of(path: str, *, stop: Callable[[], bool] = lambda: False) -> Optional[str]:
    """Hex digest of the file at *path*; None when *stop* became True on the way."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
    with open(path, "rb", buffering=0) as file:
        while not stop():
            count = file.readinto(buffer)
            if not count:
                return digest.hexdigest()
            digest.update(buffer[:count])
    return None


def is_text_name(name: str) -> bool:
    """May a file of this name be text? One without a suffix may be anything."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in TEXT_SUFFIXES or not suffix


def _check_safetensors(descriptor: int, head: bytes, size_bytes: int, secrets: Optional[List[str]]) -> None:
    """Source: the safetensors format: u64 header length, JSON header, then the tensors' bytes without gaps."""
    length = struct.unpack_from("<Q", head)[0] if len(head) >= 8 else 0
    if not 2 <= length <= MAX_SAFETENSORS_HEADER or head[8:9] != b"{":
        raise _not_a_model("no safetensors file", head, secrets)
    if 8 + length > size_bytes:
        raise Failure("truncated", f"its header alone needs {8 + length} bytes, the file has {size_bytes}")
    try:
        header = read_object(_read(descriptor, 8, length), max_bytes=MAX_SAFETENSORS_HEADER)
        ends = [parse(_Tensor, entry).end for name, entry in header.items() if name != "__metadata__"]
    except ParseError:
        raise _not_a_model("a safetensors file with a broken header", head, secrets) from None
    end = 8 + length + max(ends, default=0)
    if end > size_bytes:
        raise Failure("truncated", f"its header promises {end} bytes, the file has {size_bytes}")
    if end < size_bytes:
        raise _not_a_model(
            f"a safetensors file of {end} bytes with {size_bytes - end} more behind it", b"", secrets
        )


def _check_zip_end(descriptor: int, size_bytes: int) -> None:
    tail = os.pread(descriptor, min(size_bytes, _ZIP_END_BYTES), max(0, size_bytes - _ZIP_END_BYTES))
    if _ZIP_END not in tail:
        raise Failure("truncated", "the archive has no end: its directory of contents is missing")


def _read(descriptor: int, offset: int, length: int) -> bytes:
    pieces = []
    while length > 0:
        piece = os.pread(descriptor, min(length, READ_BYTES), offset)
        if not piece:
            break
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return b"".join(pieces)


def _is_text(head: bytes) -> bool:
    sample = head[:512]
    return b"\0" not in sample and sum(byte < 9 or 13 < byte < 32 for byte in sample) == 0


def _not_a_model(what: str, head: bytes, secrets: Optional[List[str]]) -> Failure:
    text = quoted(head, secrets or [])
    return Failure("not_a_model", f"the server sent {what}" + (f": {text}" if text else ""))
