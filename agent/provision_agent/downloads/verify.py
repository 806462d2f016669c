"""Is this the file that was wanted? Looked at before it may take its final name.

Refused: pages and error texts that came with status 200, pointers to files kept elsewhere, and files that
end before their own header says they do.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from typing import Callable, List, Optional, Tuple, Union

from ..contract import source_kinds
from ..contract.failures import Failure
from ..contract.parsing import ParseError, parse, read_object
from . import formats
from .http.errors import quoted, token_case

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
    token: Optional[str] = None,
) -> None:
    """Raise if a file that begins with *head* is a page or an error text, and its *name* promises something else.

    Args:
        secrets: Values that no message may quote.
        url: Whom it came from, for the advice.
        token: The name of the secret that went along.

    Raises:
        Failure: `not_a_model`, with the beginning of what came instead.
    """
    found = formats.kind_of(head)
    if found != formats.POINTER:
        if is_text_name(name):
            return
        found = _page(head, name, content_type, found)
    if found is not None:
        raise _not_a_model(found, name, head, secrets, url=url, token=token)


def check_head(
    head: bytes,
    name: str,
    secrets: Optional[List[str]] = None,
    *,
    is_all: bool = False,
    url: str = "",
    token: Optional[str] = None,
) -> None:
    """Raise if a file that begins with *head* is surely not of the format that its *name* promises.

    Args:
        is_all: The file has no more bytes than these; else a very short *head* tells nothing.

    Raises:
        Failure: as `refuse_page`.
    """
    refuse_page(head, name, secrets=secrets, url=url, token=token)
    wanted = formats.promised_by(name)
    if wanted is None or (len(head) < formats.ENOUGH_BYTES and not is_all):
        return
    kind = formats.kind_of(head)
    if not formats.suits(wanted, head, kind):
        found = kind or ("a file of no known format" if head else "an empty file")
        raise _not_a_model(found, name, head, secrets, url=url, token=token)


def check_format(descriptor: int, name: str, size_bytes: int, secrets: Optional[List[str]] = None) -> None:
    """Raise if the whole file behind *descriptor* does not hold what its *name* promises.

    Raises:
        Failure: `not_a_model` or `truncated`.
    """
    head = os.pread(descriptor, 1024, 0)
    check_head(head, name, secrets, is_all=True)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in (".safetensors", ".sft"):
        _check_safetensors(descriptor, head, size_bytes, secrets)
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


def git_sha1_of(file: Union[str, int], size_bytes: int) -> str:
    """What git calls the first *size_bytes* of *file*, a path or a descriptor: the hash of a blob, hex."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC) if isinstance(file, str) else os.dup(file)
    try:
        digest = hashlib.sha1(b"blob %d\0" % size_bytes)  # noqa: S324  # git's choice, not ours
        for at in range(0, size_bytes, READ_BYTES):
            digest.update(os.pread(descriptor, min(READ_BYTES, size_bytes - at), at))
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def is_text_name(name: str) -> bool:
    """May a file of this name be text? One without a suffix may be anything."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in TEXT_SUFFIXES or not suffix


def _page(head: bytes, name: str, content_type: Optional[str], found: Optional[str]) -> Optional[str]:
    """What *head* is, if it is a page or an error text in place of a file called *name*."""
    kind = (content_type or "").split(";")[0].strip().lower()
    is_declared = kind in ("text/html", "application/xhtml+xml") and formats.is_text(head)
    if formats.promised_by(name) is None:
        # it may be text: a notebook, a template, a map. Only a page that calls itself one is none of these
        return found if is_declared and found == formats.PAGE else None
    if is_declared:
        return formats.PAGE
    if head and kind in ("application/json", "application/problem+json") and formats.is_text(head):
        return "a JSON text"
    return found if found in formats.PAGES else None


def _check_safetensors(descriptor: int, head: bytes, size_bytes: int, secrets: Optional[List[str]]) -> None:
    """Source: the safetensors format: u64 header length, JSON header, then the tensors' bytes without gaps."""
    length = struct.unpack_from("<Q", head)[0]
    if 8 + length > size_bytes:
        raise Failure("truncated", f"its header alone needs {8 + length} bytes, the file has {size_bytes}")
    try:
        header = read_object(_read(descriptor, 8, length), max_bytes=formats.MAX_SAFETENSORS_HEADER)
        ends = [parse(_Tensor, entry).end for name, entry in header.items() if name != "__metadata__"]
    except ParseError:
        raise _broken("a safetensors file with a broken header", head, secrets) from None
    end = 8 + length + max(ends, default=0)
    if end > size_bytes:
        raise Failure("truncated", f"its header promises {end} bytes, the file has {size_bytes}")
    if end < size_bytes:
        raise _broken(
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


def _not_a_model(
    found: str, name: str, head: bytes, secrets: Optional[List[str]], *, url: str, token: Optional[str]
) -> Failure:
    """What came, what was wanted, and what to do about it."""
    wanted = formats.promised_by(name)
    title = wanted.name if wanted is not None else f"`{os.path.basename(name)}`"
    is_login = found == formats.PAGE and formats.is_login(head)
    if is_login:
        found = "a page that asks for a login"
    failure = _broken(f"{found}, where {title} was wanted", head, secrets)
    if is_login:
        case, about = token_case(source_kinds.host_of(url), token)
        failure.advise(case, **about)
    return failure


def _broken(what: str, head: bytes, secrets: Optional[List[str]]) -> Failure:
    text = quoted(head, secrets or []) if formats.is_text(head) else ""
    return Failure("not_a_model", f"the server sent {what}" + (f": {text}" if text else ""))
