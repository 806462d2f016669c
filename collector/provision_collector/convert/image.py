"""The workflow inside a picture that ComfyUI saved: a PNG's text chunks ``workflow`` and ``prompt``, a WebP's EXIF.

Source: PNG specification, third edition, 11.3.3 (tEXt, zTXt, iTXt).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
WEBP = (b"RIFF", b"WEBP")
MOST_BYTES = 32 << 20
_EXIF = re.compile(rb"(workflow|prompt):(?=\{)", re.I)


def is_picture(content: bytes) -> bool:
    """Is *content* a picture of a kind into which ComfyUI writes workflows?"""
    return content.startswith(PNG) or (content[:4], content[8:12]) == WEBP


def embedded(picture: bytes) -> bytes:
    """The JSON of the workflow that made *picture*, the editor's rather than the API's.

    Raises:
        ValueError: it holds none.
    """
    texts: dict[str, bytes] = {}
    for name, text in _texts(picture) if picture.startswith(PNG) else _texts_of_webp(picture):
        texts.setdefault(name, text)
        if "workflow" in texts:
            break
    found = texts.get("workflow") or texts.get("prompt")
    if not found:
        raise ValueError("the picture has none inside; many sites strip it when a picture is uploaded")
    return found


def _texts(picture: bytes) -> Iterator[tuple[str, bytes]]:
    """The first text under each of our names: no other is unpacked, however many there are."""
    position, wanted = len(PNG), {b"workflow", b"prompt"}
    while position + 12 <= len(picture):
        length = int.from_bytes(picture[position : position + 4], "big")
        kind, data = picture[position + 4 : position + 8], picture[position + 8 : position + 8 + length]
        key, _, rest = data.partition(b"\0")
        if key in wanted and kind in (b"tEXt", b"zTXt", b"iTXt"):
            wanted.remove(key)
            yield key.decode(), _text(kind, rest)
        position += 12 + length


def _text(kind: bytes, data: bytes) -> bytes:
    if kind == b"tEXt":
        return data.decode("latin-1").encode()
    if kind == b"zTXt":
        return _inflated(data[1:]).decode("latin-1").encode()
    text = data[2:].split(b"\0", 2)[-1]
    return _inflated(text) if data[:1] not in (b"", b"\0") else text


def _texts_of_webp(picture: bytes) -> Iterator[tuple[str, bytes]]:
    """ComfyUI writes ``workflow:{…}`` and ``prompt:{…}`` into tags of the EXIF chunk; each ends with a zero byte."""
    position = 12
    while position + 8 <= len(picture):
        kind, length = (
            picture[position : position + 4],
            int.from_bytes(picture[position + 4 : position + 8], "little"),
        )
        if kind == b"EXIF":
            data = picture[position + 8 : position + 8 + min(length, MOST_BYTES)]
            for found in _EXIF.finditer(data):
                yield found[1].decode().lower(), data[found.end() :].partition(b"\0")[0]
        position += 8 + length + length % 2


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"a text chunk is broken ({error})") from None
