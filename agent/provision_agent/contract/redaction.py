"""What must not be seen: URLs without what opens a door, texts without secrets. Pure."""

from __future__ import annotations

import base64
import html
import json
import re
from typing import Iterable, Iterator, List, Pattern, Set
from urllib.parse import parse_qsl, quote, quote_plus, unquote_plus, urlencode, urlsplit, urlunsplit

MIN_SECRET_LENGTH = 4
"""A shorter value would turn every log into stars and protect nothing."""
MIN_PART_LENGTH = 8
"""So many characters of a secret in a row are a part of it, and no chance."""

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

    As it is, as in a URL, as in JSON, in base64 (alone and inside of a longer text), in hex; and so each line of one
    that has several.
    """
    forms = {form for piece in _pieces(values) for form in _written(piece)}
    return sorted(forms, key=len, reverse=True)


def _pieces(values: Iterable[str]) -> List[str]:
    pieces = {piece.strip() for value in values for piece in (value, *value.splitlines())}
    return sorted(piece for piece in pieces if len(piece) >= MIN_SECRET_LENGTH)


def _written(piece: str) -> Iterator[str]:
    data = piece.encode("utf-8", "replace")
    as_json, as_ascii = (json.dumps(piece, ensure_ascii=only)[1:-1] for only in (False, True))
    yield from (piece, as_json, as_ascii, as_json.replace("/", "\\/"), as_ascii.replace("/", "\\/"))
    for quoted in (quote(piece, safe="", errors="replace"), quote_plus(piece, errors="replace")):
        yield quoted
        yield re.sub("%..", lambda match: match.group().lower(), quoted)
    yield from (data.hex(), data.hex().upper())
    yield from _in_base64(data)


def _in_base64(data: bytes) -> Iterator[str]:
    """What base64 makes of *data*, alone and behind one or two other bytes; the characters that others share are cut."""
    yield base64.b64encode(data).decode().rstrip("=")
    yield base64.urlsafe_b64encode(data).decode().rstrip("=")
    for before in range(3):
        first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            inside = encode(bytes(before) + data).decode()[first:last]
            if len(inside) >= MIN_SECRET_LENGTH:
                yield inside


class Hidden:
    """Secrets that no text may show. What is cut or quoted goes through here first: a half is not recognised later."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        values = list(values)
        self._forms = forms_of(values)
        self._escaped = [_escaped(piece) for piece in _pieces(values)]
        self._parts: Set[str] = {
            form[at : at + MIN_PART_LENGTH]
            for form in self._forms
            for at in range(max(1, len(form) - MIN_PART_LENGTH + 1))
        }

    def redact(self, text: str) -> str:
        """*text* with every URL made public and every secret replaced by ``***``, cut ones at its ends too."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, "***")
        if any(mark in text for mark in "%\\&"):
            for pattern in self._escaped:
                text = pattern.sub("***", text)
        text = self._without_cut_ends(text)
        return _URL.sub(lambda match: public_url(match.group()), text) if "://" in text else text

    def cut(self, text: str, max_chars: int) -> str:
        """The first *max_chars* of *text*, redacted before it is cut."""
        return self.redact(text)[:max_chars]

    def is_part_in(self, text: str) -> bool:
        """Whether *text* holds a secret, or `MIN_PART_LENGTH` characters of one in a row, in whatever form."""
        if not self._parts:
            return False
        plain = unquote_plus(text), html.unescape(text), _unescaped(text), "".join(text.split())
        return any(self._has_part(each) for each in (text, *plain))

    def _has_part(self, text: str) -> bool:
        windows = (text[at : at + MIN_PART_LENGTH] for at in range(max(1, len(text) - MIN_PART_LENGTH + 1)))
        return any(each in self._parts for each in windows) or any(
            form in text for form in self._forms if len(form) < MIN_PART_LENGTH
        )

    def _without_cut_ends(self, text: str) -> str:
        for form in self._forms:
            if len(form) <= MIN_PART_LENGTH:
                break  # the longest come first
            start, end = form[:MIN_PART_LENGTH], form[-MIN_PART_LENGTH:]
            kept = text.rstrip(_AFTER_A_CUT)
            at = kept.find(start, max(0, len(kept) - len(form)))
            while at >= 0 and not form.startswith(kept[at:]):
                at = kept.find(start, at + 1)
            if at >= 0:
                text = kept[:at] + "***" + text[len(kept) :]
            at = text.rfind(end, 0, len(form))
            while at >= 0 and not form.endswith(text[: at + MIN_PART_LENGTH]):
                at = text.rfind(end, 0, at + MIN_PART_LENGTH - 1)
            if at >= 0:
                text = "***" + text[at + MIN_PART_LENGTH :]
        return text


_AFTER_A_CUT = " .…`'\")]}"
_JSON_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.S)


def _unescaped(text: str) -> str:
    return _JSON_ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2], text)


def _escaped(piece: str) -> "Pattern[str]":
    """Finds *piece* with any of its characters written as in a URL, in JSON or in HTML."""
    return re.compile("".join(map(_any_way, piece)))


def _any_way(char: str) -> str:
    percent = "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "replace"))
    units = char.encode("utf-16-be", "replace")
    json_escape = "".join(rf"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    ways = [re.escape(char), f"(?i:{percent})", f"(?i:{json_escape})"]
    ways += [rf"&\#0*{ord(char)};", rf"(?i:&\#x0*{ord(char):x};)"]
    ways += [re.escape(json.dumps(char)[1:-1])] if char in '"\\\n\t\r' else []
    ways += [re.escape("\\/")] if char == "/" else []
    ways += [re.escape("+")] if char == " " else []
    ways += [re.escape(html.escape(char))] if char in "&<>\"'" else []
    return f"(?:{'|'.join(ways)})"
