"""What must not be seen: URLs without what opens a door, texts without secrets. Pure."""

from __future__ import annotations

import re
from typing import List
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

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


def redacted(text: str, secrets: List[str]) -> str:
    """*text* with every URL made public and every secret's value replaced by ``***``."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _URL.sub(lambda match: public_url(match.group()), text) if "://" in text else text
