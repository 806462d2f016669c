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
    texts = dict(_texts(picture) if picture.startswith(PNG) else _texts_of_webp(picture))
    found = texts.get("workflow") or texts.get("prompt")
    if not found:
        raise ValueError("the picture has none inside; many sites strip it when a picture is uploaded")
    return found


def _texts(picture: bytes) -> Iterator[tuple[str, bytes]]:
    position = len(PNG)
    while position + 12 <= len(picture):
        length = int.from_bytes(picture[position : position + 4], "big")
        kind, data = picture[position + 4 : position + 8], picture[position + 8 : position + 8 + length]
        key, _, rest = data.partition(b"\0")
        if kind == b"tEXt":
            yield key.decode("latin-1"), rest.decode("latin-1").encode()
        elif kind == b"zTXt":
            yield key.decode("latin-1"), _inflated(rest[1:]).decode("latin-1").encode()
        elif kind == b"iTXt" and len(rest) > 2:
            text = rest[2:].split(b"\0", 2)[-1]
            yield key.decode("latin-1"), _inflated(text) if rest[0] else text
        position += 12 + length


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
