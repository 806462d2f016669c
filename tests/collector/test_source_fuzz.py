"""Random heads and file headers of a hostile source: every one lands, or is the source's fault by class; none is `bug`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from harness.downloads import Bench, quick
from harness.hostile_source import HostileSource, answer
from hypothesis import given, settings
from hypothesis import strategies as st
from provision_agent.contract.plan import Download
from provision_agent.contract.plan_parts import ItemLimits
from provision_agent.downloads.http import fields
from provision_agent.downloads.http.errors import MAX_WAIT_S, MIN_WAIT_S, asked_wait_s

NAMES = [
    "Location",
    "Content-Range",
    "Content-Length",
    "Retry-After",
    "RateLimit",
    "RateLimit-Reset",
    "Content-Disposition",
    "ETag",
    "Last-Modified",
    "Content-Type",
    "Link",
    "X-Linked-Etag",
    "X-Error-Message",
    "Transfer-Encoding",
]
DIGITS = st.sampled_from(["1" * 5000, "-5", "1e999", "NaN", "\u00b2", "\u0665", "0x10", "", " ", "9" * 20])
SHAPES = st.sampled_from(
    [
        "bytes 0-1/{}",
        "bytes {}-5/9",
        "bytes */{}",
        '"x";r=0;t={}',
        "Mon, 01 Jan {} 00:00:00 GMT",
        "http://127.0.0.1:{}/",
        "http://[{}",
        "http://[::{}]/",
        "//{}",
        "attachment; filename={}",
        "attachment; filename*=utf-8''%{}",
        'attachment; filename="{}',
        "{}",
    ]
)
TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), max_size=60)
VALUE = st.builds(lambda shape, inside: shape.replace("{}", inside), SHAPES, st.one_of(DIGITS, TEXT))
HEAD = st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=4)
STATUS = st.one_of(
    st.sampled_from(["200 OK", "206 P", "302 F", "403 N", "404 N", "416 R", "429 T", "503 U", "9" * 5000]),
    TEXT,
)
NUMBER = st.one_of(
    st.integers(), st.floats(), st.sampled_from(["Infinity", "1e999", "9" * 5000, "[]", '"x"', "null"])
)
OF_THE_SOURCE = {
    *(
        "upstream_down",
        "truncated",
        "size",
        "not_found",
        "unauthorized",
        "gated",
        "rate_limited",
        "not_a_model",
    ),
    *("unsafe_path", "unreachable", "stalled", "timed_out", "tls"),
}


def outcome(said: bytes, path: str) -> str:
    with tempfile.TemporaryDirectory() as folder, HostileSource() as source:
        bench = Bench(Path(folder), remaining_s=lambda: 4.0, patience_s=0.1)
        limits = ItemLimits(**{**vars(quick(attempts=1)), "file_s": 2.0, "connect_s": 1.0, "lookup_s": 1.0})
        item = Download(url=source.add("/x", said), path=path, limits=limits)
        engine = bench.engine(item)
        try:
            engine.start()
            engine.wait()
        finally:
            engine.stop()
        result = engine.results().get(item.key)
        return "ended" if result is None else result.failure.class_ if result.failure is not None else "ok"


def check_answers(status: str, head: dict[str, str], body: bytes) -> None:
    assert outcome(answer(status, head, body, length=False), "m/") in {*OF_THE_SOURCE, "ok", "ended"}


def check_headers(ends: list[object], nested: int) -> None:
    inside = b"[" * nested + b"]" * nested if nested else b"[%s]" % ",".join(map(str, ends)).encode()
    header = b'{"a":{"data_offsets":%s}}' % inside
    said = answer(body=len(header).to_bytes(8, "little") + header)
    assert outcome(said, "m.safetensors") in {"not_a_model", "truncated", "ok"}


@settings(max_examples=12, deadline=None)
@given(status=STATUS, head=HEAD, body=st.binary(max_size=600))
def test_an_answer_of_anything_lands_or_is_the_sources_fault(status, head, body):
    check_answers(status, head, body)


@settings(max_examples=8, deadline=None)
@given(ends=st.lists(NUMBER, max_size=3), nested=st.sampled_from([0, 0, 1, 5000]))
def test_a_file_header_of_anything_lands_or_is_no_model(ends, nested):
    check_headers(ends, nested)


@settings(max_examples=400, deadline=None)
@given(value=VALUE)
def test_every_field_is_read_within_bounds_or_not_at_all(value):
    for name in ("Retry-After", "RateLimit", "RateLimit-Reset"):
        assert MIN_WAIT_S <= asked_wait_s({name: value}) <= MAX_WAIT_S
    assert (fields.number(value) or 0) < 10**20
    fields.whole_size(value)
    name = fields.file_name(value)
    assert fields.unusable(name) is not None or "/" not in name
    try:
        assert fields.target("http://a.example/x", value).startswith(("http://", "https://"))
    except fields.Failure as failure:
        assert failure.class_ == "upstream_down"


@pytest.mark.soak
@settings(max_examples=1500, deadline=None)
@given(status=STATUS, head=HEAD, body=st.binary(max_size=600))
def test_many_answers_of_anything_land_or_are_the_sources_fault(status, head, body):
    check_answers(status, head, body)
