"""What stands in the fields of an answer's head, read within bounds: a number, a time, a range, an address, a name.

Everything that a server says passes here. What cannot be read is None, or a `Failure` that is the source's; nothing
else is raised. Pure.
"""

from __future__ import annotations

import email.utils
import ipaddress
import re
import unicodedata
from typing import Optional
from urllib.parse import unquote, urljoin, urlsplit

from ...contract.failures import Failure
from .transport import DEFAULT_PORTS, origin_of

MOST_DIGITS = 20
MAX_ADDRESS_CHARS = 16 << 10
MAX_FIELD_CHARS = 16 << 10
MAX_NAME_BYTES = 240
"""A file system has 255, and `.part.journal` comes behind it."""

_SIZED = re.compile(r"bytes (?:[0-9]{1,20}-[0-9]{1,20}|\*)/([0-9]+)")
_PARAMETER = re.compile(r'(?:^|;)\s*([\w*-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)', re.S)
_EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[^']*'(.*)", re.I | re.S)
_HIGH = re.compile("[\x80-\xff]")
_UNSEEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Unicode's categories of what is not shown as it is: controls, marks that turn the direction of text, half characters."""
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.I)
_OUR_OWN = ("provision_core.log", "provision_errors.log", ".provision", ".git")


def number(text: Optional[str]) -> Optional[int]:
    """The whole number that *text* is, in ASCII digits; None for anything else, and for more digits than `MOST_DIGITS`."""
    found = re.fullmatch(rf"[0-9]{{1,{MOST_DIGITS}}}", (text or "").strip(" \t"))
    return int(found[0]) if found else None


def whole_size(content_range: Optional[str]) -> Optional[str]:
    """The digits after the stroke of a ``Content-Range``, however many; None where there are none."""
    found = _SIZED.fullmatch((content_range or "")[:MAX_FIELD_CHARS])
    return found[1] if found else None


def wait_s(after: Optional[str], now: float) -> Optional[float]:
    """The seconds from *now* (Unix time) that a ``Retry-After`` asks for, as a number or a date; None: it cannot be read."""
    text = (after or "").strip(" \t")[:100]
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    try:
        date = email.utils.parsedate_tz(text)
        return email.utils.mktime_tz(date) - now + 1 if date else None
    except (ValueError, OverflowError, TypeError, IndexError):
        return None  # no such day, or none that this machine can count to


def window_s(limit: Optional[str]) -> Optional[float]:
    """The seconds until the window of a ``RateLimit`` ends; None when it does not say."""
    found = re.search(rf"(?:^|[;,\s])t=([0-9]{{1,{MOST_DIGITS}}})", (limit or "")[:MAX_FIELD_CHARS])
    return float(found[1]) if found else None


def target(url: str, said: str) -> str:
    """The http(s) address that *said*, in the answer of *url*, leads to.

    Raises:
        Failure: `upstream_down`, when that is none.
    """
    host = urlsplit(url).hostname or url
    text = as_written(said)
    if (
        text == said and _bytes_of(said) is not None
    ):  # bytes of no text that is known: they go back as they came
        text = _HIGH.sub(lambda each: f"%{ord(each[0]):02X}", said)
    said = text
    try:
        if len(said) > MAX_ADDRESS_CHARS or any(unicodedata.category(each) in _UNSEEN for each in said):
            raise ValueError
        found = urljoin(url, said)
        name = origin_of(found).host
        if re.search(r"[\s\"<>\\^`{|}]", name) or urlsplit(found).scheme.lower() not in DEFAULT_PORTS:
            raise ValueError
        if "[" in urlsplit(found).netloc:
            ipaddress.IPv6Address(name.partition("%")[0])
        else:
            name.encode("idna")
    except (ValueError, Failure):
        raise Failure(
            "upstream_down", f"{host} redirects to what is no http or https address: {brief(said)}"
        ) from None
    return found


def as_written(text: str) -> str:
    """*text* of a head, which the library reads as Latin-1, as the UTF-8 that it is; unchanged where it is none."""
    raw = _bytes_of(text)
    try:
        return text if raw is None else raw.decode("utf-8")
    except UnicodeError:
        return text


def file_name(disposition: Optional[str]) -> str:
    """The file's name in a ``Content-Disposition``; empty where there is none.

    As ``wget --content-disposition`` takes it: ``filename*`` goes first, a name without quotes may have spaces, and of
    a name with folders the last part counts. One that climbs or begins at the root stays a path, to be refused.
    """
    text = as_written((disposition or "")[:MAX_FIELD_CHARS])
    given = {found[1].lower(): found[2].strip() for found in _PARAMETER.finditer(text)}
    plain, extended = given.get("filename", ""), _EXTENDED.fullmatch(_unquoted(given.get("filename*", "")))
    name = unquote(extended[2], encoding=extended[1]) if extended else _unquoted(plain)
    parts = re.split(r"[/\\]", name)
    return name if ".." in parts or parts[0] == "" else parts[-1]


def _unquoted(value: str) -> str:
    """What is between quotes; a backslash in it is one, as in a path of Windows, but before a quote or another one."""
    is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return re.sub(r'\\(["\\])', r"\1", value[1:-1]) if is_quoted else value


def _bytes_of(text: str) -> Optional[bytes]:
    """The bytes that the library read as Latin-1; None where they cannot have been that."""
    try:
        return text.encode("latin-1")
    except UnicodeError:
        return None


def unusable(name: str, *, may_hide: bool = False) -> Optional[str]:
    """Why *name*, as a server gives it, cannot be one part of a path here; None when it can.

    Args:
        may_hide: A dot may begin it, as in a repository's ``.gitattributes``.
    """
    if not name or name in (".", ".."):
        return "is none"
    if "/" in name or "\\" in name:
        return "is a path"
    if any(unicodedata.category(each) in _UNSEEN for each in name):
        return "has characters that are not shown"
    if name.lower() in _OUR_OWN or name.lower().endswith((".part", ".part.journal")):
        return "is one that this tool or git uses itself"
    if name.startswith(".") and not may_hide:
        return "hides the file"
    if name.startswith(("-", "~")) or name != name.strip():
        return "means something else to a shell"
    if _DEVICES.fullmatch(name):
        return "is that of a device on other systems"
    return (
        f"is longer than {MAX_NAME_BYTES} bytes"
        if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES
        else None
    )


def brief(text: str, most: int = 80) -> str:
    """*text* as one short and harmless piece of a message."""
    shown = "".join(each if each.isprintable() and each != "`" else "?" for each in text[:most])
    return f"`{shown}{'…' if len(text) > most else ''}`"
