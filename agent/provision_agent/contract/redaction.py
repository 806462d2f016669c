"""What must not be seen: URLs without what opens a door, texts without secrets. Pure."""

from __future__ import annotations

import base64
import json
import re
from typing import Iterable, List
from urllib.parse import parse_qsl, quote, quote_plus, urlencode, urlsplit, urlunsplit

MIN_SECRET_LENGTH = 4
"""A shorter value would turn every log into stars and protect nothing."""

_SECRET_PARAMETER = re.compile(
    r"token|key|sig|signature|secret|password|credential|auth|policy|x-amz|x-goog|se$|sv$|st$", re.I
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]*[^\s'\"<>:;,.)\]]", re.I)


def public_url(url: str) -> str:
    """*url* without user info and without the parameters that may open a door (tokens, signatures)."""
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return url.split("?")[0]
    kept = [(name, value) for name, value in pairs if not _SECRET_PARAMETER.search(name)]
    query = urlencode(kept) if len(kept) != len(pairs) else parts.query
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def forms_of(values: Iterable[str]) -> List[str]:
    """Every form in which a secret may come by, the longest first.

    As it is, as in a URL, as in JSON, in base64; and so each line of one that has several.
    """
    pieces = {piece.strip() for value in values for piece in (value, *value.splitlines())}
    forms = {form for piece in pieces if len(piece) >= MIN_SECRET_LENGTH for form in _written(piece)}
    return sorted(forms, key=len, reverse=True)


def _written(piece: str) -> List[str]:
    encoded = base64.b64encode(piece.encode("utf-8", "replace")).decode().rstrip("=")
    return [
        piece,
        quote(piece, safe="", errors="replace"),
        quote_plus(piece, errors="replace"),
        json.dumps(piece)[1:-1],
        encoded,
    ]


def redacted(text: str, secrets: List[str]) -> str:
    """*text* with every URL made public and every secret's value replaced by ``***``."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _URL.sub(lambda match: public_url(match.group()), text) if "://" in text else text
