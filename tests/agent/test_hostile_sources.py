"""A source that says odd things: the item fails by a class that is the source's, in words, or it lands; nothing else."""

from __future__ import annotations

import json
import os
import time

import pytest
from harness.downloads import Bench, quick
from harness.hostile_source import HostileSource, answer
from provision_agent.contract.plan import Download
from provision_agent.downloads.http.errors import MAX_WAIT_S, UNSAID_WAIT_S, asked_wait_s

LONG = "1" + "0" * 5000
BODY = b"\x80\x02model" + bytes(range(256)) * 2


@pytest.fixture
def source():
    with HostileSource() as made:
        yield made


def fetched(bench: Bench, source: HostileSource, said: bytes, path: str = "f.bin", **how):
    url = source.add("/x", said, **how)
    return bench.fetch_one(Download(url=url, path=path, limits=quick(attempts=1)))


REDIRECTS = {
    "http://[::1": "`http://[::1`",
    "http://[foo]/": "`http://[foo]/`",
    "file:///etc/passwd": "`file:///etc/passwd`",
    "gopher://x": "`gopher://x`",
    "javascript:x": "`javascript:x`",
    "http://127.0.0.1:99999999999/": "99999999999",
    "http://ex ample/": "`http://ex ample/`",
    "http://x" + "y" * 30000: "yyyy…`",
    "http://" + "y" * 70 + "/": "yyyy",
    "\x01": "`?`",
    "http://127.0.0.1/\u202efdp": "?fdp",
}


@pytest.mark.parametrize("location", REDIRECTS, ids=lambda text: ascii(text)[:20])
def test_a_redirect_to_what_is_no_address_is_the_sources_fault_and_quoted(location, bench, source):
    result = fetched(bench, source, answer("302 Found", {"Location": location}))

    assert result.failure.class_ == "upstream_down"
    assert "127.0.0.1 redirects to what is no http or https address: " in result.failure.message
    assert REDIRECTS[location] in result.failure.message
    assert result.failure.message.isprintable()
    assert bench.files() == []


ODD = {
    "a range of 5 000 digits": (answer("206 P", {"Content-Range": f"bytes 0-1/{LONG}"}, BODY), "size"),
    "a range that is not there": (answer("206 P", {"Content-Range": "bytes 5-1/10"}, BODY), "truncated"),
    "a length of 5 000 digits": (answer(headers={"Content-Length": LONG}, body=BODY), None),
    "a length below nothing": (answer(headers={"Content-Length": "-5"}, body=BODY), None),
    "two lengths": (answer(headers={"Content-Length": "5, 6"}, body=BODY), None),
    "a length in other digits": (answer(headers={"Content-Length": "\u0665"}, body=BODY), None),
    "a status of 5 000 digits": (answer("2" * 5000), "upstream_down"),
    "a status below nothing": (answer("-1 X"), "upstream_down"),
    "a status of other digits": (answer("\u0662\u0660\u0660 X"), "upstream_down"),
    "no HTTP": (b"SSH-2.0-x\r\n", "upstream_down"),
    "a hundred fields too many": (
        answer(headers={f"H{n}": "x" for n in range(200)}, body=BODY),
        "upstream_down",
    ),
    "a field of 70 KiB": (answer(headers={"X": "y" * 70000}, body=BODY), "upstream_down"),
    "a colon alone": (b"HTTP/1.1 200 OK\r\n: x\r\n\r\n" + BODY, None),
    "an ETag of anything": (
        answer(headers={"ETag": '"' + "\u00ff" * 3000, "Last-Modified": "\u00e9"}, body=BODY),
        None,
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_head_is_read_past_or_is_the_sources_fault(name, bench, source):
    said, class_ = ODD[name]

    result = fetched(bench, source, said)

    if class_ is None:
        assert (result.state, bench.path("f.bin").read_bytes()) == ("ok", BODY)
    else:
        assert result.failure.class_ == class_
        assert result.failure.hint


@pytest.mark.parametrize(
    "size", [b"-5", b"0x5", b"+5", b"5_0", b"zz", b"f" * 20, b"\xd9\xa5", b"0" * 200000], ids=repr
)
def test_a_piece_whose_size_is_no_number_breaks_the_transfer_off(size, bench, source):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    result = fetched(bench, source, head + size + b"\r\n" + BODY + b"\r\n0\r\n\r\n")

    assert result.failure.class_ == "truncated"
    assert "127.0.0.1 broke off" in result.failure.message


@pytest.mark.parametrize("again", [b"HTTP/1.1 100 C\r\n\r\n", b"X"], ids=["go on", "one line"])
def test_a_head_that_never_ends_is_given_up_on(again, bench, source):
    url = source.add(
        "/x", b"HTTP/1.1 100 C\r\n\r\n" if again != b"X" else b"HTTP/1.1 200 ", then_for_ever=again * 4096
    )
    began = time.monotonic()

    result = bench.fetch_one(Download(url=url, path="f.bin", limits=quick(attempts=1)))

    assert result.failure.class_ == "upstream_down"
    assert "no HTTP" in result.failure.message
    assert time.monotonic() - began < 20


WAITS = {
    "Mon, 01 Jan 99999 00:00:00 GMT": UNSAID_WAIT_S,
    "Mon, 99 Foo 2026 99:99:99 GMT": UNSAID_WAIT_S,
    "Fri, 31 Dec -999999 00:00:00": UNSAID_WAIT_S,
    "9" * 5000: MAX_WAIT_S,
    "\u00b2": UNSAID_WAIT_S,
    "nan": UNSAID_WAIT_S,
    "inf": UNSAID_WAIT_S,
    "-5": UNSAID_WAIT_S,
    "Mon, 01 Jan 2026 00:00:00 +999999999999": UNSAID_WAIT_S,
}


@pytest.mark.parametrize("after", WAITS, ids=lambda text: ascii(text)[:30])
def test_a_time_to_wait_that_is_none_is_the_usual_one(after):
    waited = asked_wait_s({"Retry-After": after})

    assert 0.5 <= waited <= MAX_WAIT_S
    assert waited == WAITS[after] or "2026" in after
    for name in ("RateLimit-Reset", "RateLimit"):
        assert 0.5 <= asked_wait_s({name: after}) <= MAX_WAIT_S
        assert 0.5 <= asked_wait_s({name: f'"x";r=0;t={after}'}) <= MAX_WAIT_S


def safetensors(header: bytes, tail: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + tail


HEADERS = [
    (2**63).to_bytes(8, "little") + b"{}" + bytes(600),
    (2**64 - 1).to_bytes(8, "little") + b"{" + b"x" * 600,
    safetensors(b"{" * 60000),
    safetensors(b'{"a":' + b"[" * 50000 + b"]" * 50000 + b"}"),
    *(
        safetensors(b'{"a":{"data_offsets":[0,%s]}}' % end)
        for end in (b"1e999", b"Infinity", b"NaN", b"9" * 5000, b"-5", b"[]", b'"\xc2\xb2"', b"true")
    ),
    safetensors(b'{"a":5}'),
    safetensors(b'{"a":\xff}'),
    safetensors(b'{"a":{"data_offsets":[0,4]},"a":{"data_offsets":[0,4]}}', b"1234"),
]


@pytest.mark.parametrize("number", range(len(HEADERS)))
def test_a_safetensors_header_that_cannot_be_is_no_model(number, bench, source):
    result = fetched(bench, source, answer(body=HEADERS[number]), "m.safetensors")

    assert (result.state, getattr(result.failure, "class_", "")) in (
        ("failed", "not_a_model"),
        ("ok", ""),
    )
    assert result.state == "failed" or json.loads(HEADERS[number][8:63])
    assert "safetensors" in (result.failure.message if result.failure else "safetensors")
    assert not bench.path("m.safetensors").exists() or result.state == "ok"


def test_words_of_a_server_are_shown_without_what_a_terminal_would_obey(bench, source):
    said = answer("403 No", {"X-Error-Message": "\x1b]52;c;x\x07no", "X-Error-Code": "\x1b[2J"})

    failure = fetched(bench, source, said).failure

    assert failure.class_ == "unauthorized"
    assert failure.message.isprintable()


NAMES = {
    "\u202ecod.bin": "has characters that are not shown",
    "a\u200bb.bin": "has characters that are not shown",
    "a\tb": "has characters that are not shown",
    "-rf": "means something else to a shell",
    "~root": "means something else to a shell",
    "CON": "is that of a device on other systems",
    "nul.bin": "is that of a device on other systems",
    "provision_errors.log": "is one that this tool or git uses itself",
    "x.part": "is one that this tool or git uses itself",
    "x.part.journal": "is one that this tool or git uses itself",
    ".bashrc": "hides the file",
    "../../x": "is a path",
    "..\\x": "is a path",
    "a" * 241: "is longer than 240 bytes",
    "\u00e9" * 121: "is longer than 240 bytes",
}


@pytest.mark.parametrize("name", NAMES, ids=lambda text: ascii(text)[:20])
def test_an_odd_name_of_a_server_is_refused_and_the_words_say_why(name, bench, source):
    url = source.add(
        "/",
        answer(headers={"Content-Disposition": f"attachment; filename*=UTF-8''{quoted(name)}"}, body=BODY),
    )

    failure = bench.fetch_one(Download(url=url, path="m/", limits=quick(attempts=1))).failure

    assert (failure.class_, failure.case) == ("unsafe_path", "no_file_name")
    assert f"cannot be used: it {NAMES[name]}" in failure.message
    assert failure.hint == "give the item a `path` that ends in a file name"
    assert bench.files() == []


def quoted(name: str) -> str:
    return "".join(f"%{byte:02x}" for byte in name.encode())


def test_an_ordinary_name_in_any_language_is_taken(bench, source):
    for name in ("模型 v2 (final).bin", "café.bin", "a'b;c.bin", "💩.bin"):
        url = source.add(
            f"/{len(name)}",
            answer(headers={"Content-Disposition": f"x; filename*=UTF-8''{quoted(name)}"}, body=BODY),
        )
        assert bench.fetch_one(Download(url=url, path="m/", limits=quick(attempts=1))).state == "ok"
        assert name in os.listdir(str(bench.path("m")))


def test_a_name_of_a_server_never_replaces_a_file_that_no_run_made(bench, source):
    (bench.root / "keep").mkdir()
    bench.path("keep/notes.bin").write_bytes(b"mine")
    url = source.add("/notes.bin", answer(body=BODY))
    item = Download(url=url, path="keep/", limits=quick(attempts=1))

    failure = bench.fetch_one(item).failure

    assert (failure.class_, failure.case) == ("conflict", "name_taken")
    assert "`keep/notes.bin` is there already, and no run of provision made it" in failure.message
    assert "move that file away" in failure.hint
    assert bench.path("keep/notes.bin").read_bytes() == b"mine"
    bench.path("keep/notes.bin").unlink()
    assert bench.fetch_one(item).state == "ok"
    source.add("/notes.bin", answer(body=BODY + b"newer"))
    bench.path("keep/notes.bin").write_bytes(b"damaged since")
    assert bench.fetch_one(item).state == "ok", "what an earlier run made is made again"
    assert bench.path("keep/notes.bin").read_bytes() == BODY + b"newer"
