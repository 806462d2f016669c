"""Why a source says no: an HTTP answer as a class that people and programs can act on.

*gated*: the account lacks a licence; *unauthorized*: no token, or one that is refused; *not_found*: nothing
there; *rate_limited*: later, and when. A number in a body is never taken for a status.
"""

from __future__ import annotations

import html
import re
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

from ...contract import redaction, source_kinds
from ...contract.failures import Failure
from . import fields
from .request import Headers
from .response import Response

MIN_WAIT_S, MAX_WAIT_S = 0.5, 120.0
"""However short or long a time a server names, it is asked again after this."""
UNSAID_WAIT_S = 10.0
"""How long to leave a host alone that says 429 and not for how long."""
QUOTED_BYTES = 200
_PAGE = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_TITLE = re.compile(r"<title[^>]*>([^<]*)</title>", re.IGNORECASE)
READ_BYTES = 4096


class Expired(Failure):
    """The place where the bytes were is not ours any more: ask the source for a new one, keep the bytes."""

    def __init__(self, message: str) -> None:
        super().__init__("upstream_down", message)


class Refused(NamedTuple):
    """An answer that is no 2xx and no redirect."""

    status: int
    headers: Headers
    url: str
    """Who answered."""
    said: str = ""
    """Its own words, as one harmless line."""
    token: Optional[str] = None
    """The name of the secret that went along, None when none did."""
    code: str = ""
    """Its own name for what is wrong, as one harmless line."""
    body: bytes = b""
    """The first of what it sent, as it is: to be read, never to be shown."""

    @property
    def host(self) -> str:
        """Who answered, by name."""
        return urlsplit(self.url).hostname or self.url

    @property
    def message(self) -> str:
        """What happened, for people."""
        what = f" for {redaction.public_url(self.url)}" if self.status in (404, 410) else ""
        return f"{self.host} answered {self.status}{f' {self.code}' if self.code else ''}{what}{f': {self.said}' if self.said else ''}"

    @property
    def wants_a_wait(self) -> bool:
        """It says *later*, and not *no*."""
        asks = bool(self.headers.get("Retry-After")) or self.headers.get("X-RateLimit-Remaining") == "0"
        return self.status == 429 or (self.status in (403, 503) and asks)


def refusal(refused: Refused) -> Failure:
    """What *refused* means, whichever kind of source it is."""
    status = refused.status
    if refused.wants_a_wait:
        wait_s = asked_wait_s(refused.headers)
        return Failure("rate_limited", refused.message, host=refused.host, wait_s=wait_s)
    if status in (404, 410):
        return Failure("not_found", refused.message)
    if status in (401, 403, 407):
        case, about = token_case(refused.host, refused.token)
        return Failure("unauthorized", refused.message, case=case, about=about)
    if status in (408, 425) or status >= 500:
        return Failure("upstream_down", refused.message)
    return Failure("not_found", refused.message, case="refused_url")


def asked_wait_s(headers: Headers, now: Callable[[], float] = time.time) -> float:
    """How long the server wants to be left alone, within `MIN_WAIT_S` and `MAX_WAIT_S`.

    ``RateLimit`` (an IETF draft, used by Hugging Face) is exact and goes first; ``Retry-After`` is
    seconds or a date.
    """
    window_s = fields.window_s(headers.get("RateLimit"))
    reset_s = fields.number(headers.get("RateLimit-Reset"))
    after = headers.get("Retry-After")
    after_s = fields.wait_s(after, now())
    if window_s is not None:
        wait_s = window_s + 1
    elif after_s is not None:
        wait_s = after_s
    elif reset_s is not None and not after:
        wait_s = reset_s + 1.0
    else:
        wait_s = UNSAID_WAIT_S
    return min(max(wait_s, MIN_WAIT_S), MAX_WAIT_S)


def quoted(body: bytes, secrets: List[str]) -> str:
    """The first bytes of *body* as one harmless line, of a web page its title.

    '' when they are no text, or hold a part of one of *secrets*.
    """
    if b"\0" in body:
        return ""
    text = body.decode("utf-8", "replace")
    if _PAGE.match(text):
        title = _TITLE.search(text)
        text = html.unescape(title.group(1)) if title else ""
    text = text[: 2 * QUOTED_BYTES]
    hidden = redaction.Hidden(secrets)
    return "" if hidden.is_part_in(text) else _one_line(hidden.redact(text))


def refused_by(response: Response, *, secrets: List[str], token: Optional[str]) -> Refused:
    """What *response*, which brings no bytes, says: its own words only where they hold no part of a secret."""
    fields_said = [
        (response.headers.get(name) or "").encode() for name in ("X-Error-Code", "X-Error-Message")
    ]
    code, said = (quoted(each, secrets) for each in fields_said)
    body = response.read(READ_BYTES, 2.0)
    said = said or quoted(body, secrets)
    return Refused(response.status, response.headers, response.url, said, token, code, body)


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:QUOTED_BYTES]


def token_case(host: str, token: Optional[str]) -> Tuple[str, Dict[str, str]]:
    """The case, with its particulars, when *host* wants to know who asks; the secret *token* (None: none) went along."""
    if token:
        return "token_refused", {"token": token}
    usual = source_kinds.secret_for(host)
    return ("token_undeclared", {"token": usual}) if usual else ("no_secret_for_host", {})
