"""A site's own cache, which is asked before the source itself: it answers for any host, by a path that names it.

Only for files whose sha256 is known: a cache may be stale, or somebody else's, and nothing else would tell. It sees no
secret, and what goes wrong there costs no attempt: the source itself is next.
"""

from __future__ import annotations

from typing import Optional
from urllib.parse import urlsplit

from ..contract.failures import Failure
from ..contract.plan import Download
from .sources import addresses


def url_at(cache: Optional[str], item: Download) -> Optional[str]:
    """Where *cache* has the file of *item*; None where it is not to be asked for it.

    Args:
        cache: With ``{host}`` and ``{path}`` in it; None: there is none.
    """
    if not cache or item.sha256 is None or item.headers or item.basic is not None:
        return None
    try:
        parts = urlsplit(addresses.address_of(item.url))
    except (Failure, ValueError):
        return None
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or "X-Amz-" in parts.query:
        return None
    path = parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
    return cache.replace("{host}", parts.netloc).replace("{path}", path)
