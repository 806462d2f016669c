"""Why a source says no: an HTTP answer as a class that people and programs can act on.

*gated*: the account lacks a licence; *unauthorized*: no token, or one that is refused; *not_found*: nothing
there; *rate_limited*: later, and when. A number in a body is never taken for a status.
"""

from __future__ import annotations

import difflib
import email.utils
import json
import re
import time
from typing import Callable, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

from ...contract import redaction
from ...contract.failures import Failure
from ..sources.addresses import CIVITAI_HOSTS, HubFile
from .request import Headers

MIN_WAIT_S, MAX_WAIT_S = 0.5, 120.0
"""However short or long a time a server names, it is asked again after this."""
UNSAID_WAIT_S = 10.0
"""How long to leave a host alone that says 429 and not for how long."""
QUOTED_BYTES = 200

HOST_TOKENS = {"huggingface.co": "HF_TOKEN", "dropbox.com": "DROPBOX_TOKEN"}
HOST_TOKENS.update((host, "CIVITAI_TOKEN") for host in CIVITAI_HOSTS)


def refusal(
    status: int,
    headers: Headers,
    body: bytes,
    *,
    url: str,
    token: Optional[str],
    secrets: List[str],
) -> Failure:
    """What the answer *status* (no 2xx, no redirect) means.

    Args:
        body: The first bytes of the answer, for the message.
        url: Who was asked.
        token: The name of the secret that went along, None when none did.
        secrets: Values that must not appear in the message.
    """
    host = urlsplit(url).hostname or url
    code = headers.get("X-Error-Code") or ""
    said = headers.get("X-Error-Message") or quoted(body, secrets)
    facts = f"{host} answered {status}{f' {code}' if code else ''}{f': {said}' if said else ''}"
    if status == 429 or (status in (403, 503) and _asks_to_wait(headers)):
        return Failure("rate_limited", facts, host=host, wait_s=asked_wait_s(headers))
    if code == "GatedRepo":
        return Failure("gated", facts, hint=_gated_hint(url, token))
    if code in ("RepoNotFound", "EntryNotFound", "RevisionNotFound") or status in (404, 410):
        return Failure("not_found", facts, hint=_missing_hint(host, code, token))
    if status in (401, 403, 407):
        return Failure("unauthorized", facts, hint=_token_hint(host, token))
    if status in (408, 425) or status >= 500:
        return Failure("upstream_down", facts)
    return Failure(
        "not_found", facts, hint="the server refuses this URL: open it in a browser, then correct the profile"
    )


def asked_wait_s(headers: Headers, now: Callable[[], float] = time.time) -> float:
    """How long the server wants to be left alone, within `MIN_WAIT_S` and `MAX_WAIT_S`.

    ``RateLimit`` (an IETF draft, used by Hugging Face) is exact and goes first; ``Retry-After`` is
    seconds or a date.
    """
    window = re.search(r"(?:^|[;,\s])t=(\d+)", headers.get("RateLimit") or "")
    reset = headers.get("RateLimit-Reset") or ""
    after = (headers.get("Retry-After") or "").strip()
    if window:
        wait_s = float(window[1]) + 1
    elif re.fullmatch(r"\d+(\.\d+)?", after):
        wait_s = float(after)
    elif after:
        date = email.utils.parsedate_tz(after)
        wait_s = email.utils.mktime_tz(date) - now() + 1 if date else UNSAID_WAIT_S
    elif reset.isdigit():
        wait_s = float(reset) + 1
    else:
        wait_s = UNSAID_WAIT_S
    return min(max(wait_s, MIN_WAIT_S), MAX_WAIT_S)


def quoted(body: bytes, secrets: List[str]) -> str:
    """The first bytes of *body* as one harmless line, '' when they are no text."""
    if b"\0" in body:
        return ""
    text = redaction.redacted(body.decode("utf-8", "replace"), secrets)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:QUOTED_BYTES]


def did_you_mean(missing: HubFile, listing: bytes) -> Optional[str]:
    """The file in the repository's *listing* (JSON) whose name is nearest to the one that is not there."""
    try:
        entries = json.loads(listing)
        paths = [str(entry["path"]) for entry in entries if entry.get("type", "file") == "file"]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    name = missing.path.rpartition("/")[2]
    by_name: Dict[str, str] = {path.rpartition("/")[2]: path for path in paths}
    near = difflib.get_close_matches(missing.path, paths, 1, 0.6)
    same = [by_name[near_name] for near_name in difflib.get_close_matches(name, by_name, 1, 0.6)]
    candidates: List[Tuple[float, str]] = [
        (difflib.SequenceMatcher(None, path.rpartition("/")[2], name).ratio(), path) for path in near + same
    ]
    return max(candidates)[1] if candidates else None


def _asks_to_wait(headers: Headers) -> bool:
    return bool(headers.get("Retry-After")) or headers.get("X-RateLimit-Remaining") == "0"


def _gated_hint(url: str, token: Optional[str]) -> str:
    parts = urlsplit(url)
    page = f"{parts.scheme}://{parts.netloc}{parts.path.partition('/resolve/')[0]}"
    if token:
        return f"accept the licence on {page} with the account of your `{token}`, then run the same `provision up` again"
    return f"accept the licence on {page} and set `HF_TOKEN` in your environment, then run the same `provision up` again"


def _missing_hint(host: str, code: str, token: Optional[str]) -> Optional[str]:
    if code == "RepoNotFound":
        private = (
            "which the account of your token may not see" if token else "for which `HF_TOKEN` must be set"
        )
        return f"check the repository's name; or it is a private one, {private}"
    if code == "RevisionNotFound":
        return "there is no such branch, tag or commit: correct the part after `/resolve/`"
    return None


def _token_hint(host: str, token: Optional[str]) -> str:
    if token:
        return f"the value of `{token}` is refused: make a new token, or give its account access"
    name = next(
        (name for known, name in HOST_TOKENS.items() if host == known or host.endswith("." + known)), None
    )
    if name:
        return f"set `{name}` in your environment, then run the same `provision up` again"
    return f"list a secret with `hosts: [{host}]` in the profile and set it in your environment"
