"""No form of a secret is shown, wherever a text that holds it is cut."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provision_agent.contract.redaction import MIN_PART_LENGTH, Hidden
from provision_agent.downloads.http.errors import QUOTED_BYTES, quoted

ODD = 'hf_a/b+c"d\\e&f<g é=h%i j'
SECRETS = st.one_of(st.just(ODD), st.text("abcXYZ019-_./+=%&<>\"'\\é", min_size=12, max_size=40))
TOKENS = st.text("abcdefXYZ0123456789", min_size=12, max_size=40).map("hf_".__add__)
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
AROUND = st.text("xyz .,:", max_size=30)


def base64_inside(secret: str, before: str = "") -> str:
    return base64.b64encode(f"{before}{secret}".encode()).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "percent": lambda secret: quote(secret, safe=""),
    "percent of a form": quote_plus,
    "percent in small letters": lambda secret: "".join(
        f"%{byte:02x}" if byte > 127 or not chr(byte).isalnum() else chr(byte) for byte in secret.encode()
    ),
    "every byte in percent": lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
    "base64": base64_inside,
    "base64 without padding": lambda secret: base64_inside(secret).rstrip("="),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "basic, first alignment": lambda secret: base64_inside(secret, "me:"),
    "basic, second alignment": lambda secret: base64_inside(secret, "user:"[1:]),
    "basic, third alignment": lambda secret: base64_inside(secret, "user:"),
    "json": lambda secret: json.dumps(secret)[1:-1],
    "json with slashes": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "json, every character": lambda secret: "".join(f"\\u{ord(char):04X}" for char in secret),
    "html": html.escape,
    "hex": lambda secret: secret.encode().hex(),
    "hex in capitals": lambda secret: secret.encode().hex().upper(),
}


def longest_part(form: str, text: str) -> int:
    """How many characters of *form* in a row *text* holds."""
    best = 0
    for start in range(len(form)):
        while form[start : start + best + 1] in text and start + best < len(form):
            best += 1
    return best


@pytest.mark.parametrize("form", FORMS)
@given(secret=SECRETS, before=AROUND, after=AROUND, cut=st.integers(0, 400))
@QUICK
def test_what_is_redacted_and_then_cut_holds_no_part_of_it(
    form: str, secret: str, before: str, after: str, cut: int
) -> None:
    written = FORMS[form](secret)

    shown = Hidden([secret]).cut(f"{before}{written} {after}", cut)

    assert longest_part(written, shown) < MIN_PART_LENGTH


@pytest.mark.parametrize("form", FORMS)
@given(secret=SECRETS, before=AROUND, after=AROUND, cut=st.integers(0, 400))
@QUICK
def test_a_body_that_holds_a_part_of_it_is_not_quoted(
    form: str, secret: str, before: str, after: str, cut: int
) -> None:
    written = FORMS[form](secret)

    said = quoted(f"{before}{written} {after}".encode()[:cut], [secret])

    per_character = -(-len(written) // len(secret))
    assert longest_part(written, said) < MIN_PART_LENGTH * per_character
    assert len(said) <= QUOTED_BYTES


@given(secret=TOKENS, at=st.integers(8, 60), before=AROUND)
@QUICK
def test_a_text_that_somebody_else_has_cut_shows_no_half_of_it_at_its_ends(
    secret: str, at: int, before: str
) -> None:
    hidden = Hidden([secret])

    for mark in ("", "…", "..."):
        assert longest_part(secret, hidden.redact(f"{before}{secret[:at]}{mark}")) < MIN_PART_LENGTH
    assert longest_part(secret, hidden.redact(f"{secret[-at:]} {before}")) < MIN_PART_LENGTH


def test_of_a_web_page_the_title_is_quoted_and_nothing_else() -> None:
    page = b'\n<!DOCTYPE HTML>\n<html lang="en"><head><style>x</style><title>Error &amp; 404</title></head>'

    assert quoted(page, []) == "Error & 404"
    assert quoted(b"<html><body><h1>Not here</h1>", []) == ""
    assert quoted(b"<title>sk-0123456789ab</title>".join((b"<html>", b"")), ["sk-0123456789abcdef"]) == ""


def test_a_body_without_it_is_quoted_and_a_text_without_it_stays() -> None:
    body = b'{"error": "Access to model o/gated is restricted"}'

    assert quoted(body, ["hf_0123456789abcdef"]) == body.decode()
    assert quoted(b'{"token": "hf_0123456"}', ["hf_0123456789abcdef"]) == ""
    assert Hidden(["hf_0123456789abcdef"]).redact("100% of a\\b & c") == "100% of a\\b & c"
    assert Hidden([]).redact("see https://a.org/x?token=abc") == "see https://a.org/x"
