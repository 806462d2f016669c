"""Frames, however they are cut; URLs and texts without their secrets."""

from __future__ import annotations

import random
import re

import pytest
from provision_agent.contract import cases, frames, redaction, verdicts
from provision_agent.contract.frames import FrameReader, ProtocolError

NONCE = "0123"
FRAMES = [
    frames.pack(frames.RESUMED, 0, {"resumed": True}),
    frames.data_head(1, 2, 77, 5) + b"\x00\xffabc",
    frames.data_head(0, 0, 0, 0),
    frames.pack(frames.BEAT, 0, {"sizes": [1, 2]}),
]


def test_frames_come_out_whole_however_the_stream_is_cut() -> None:
    stream = b"Welcome to Ubuntu\r\n" + frames.magic(NONCE) + b"".join(FRAMES)
    for seed in range(200):
        rand = random.Random(seed)
        reader = FrameReader(NONCE)
        got, rest = [], stream
        while rest:
            cut = rand.randint(1, 12)
            got += list(reader.feed(rest[:cut]))
            rest = rest[cut:]
        assert [frame.kind for frame in got] == [b"R", b"D", b"D", b"B"]
        assert got[1].payload == b"\x00\xffabc"
        assert (got[1].file, got[1].generation, got[1].offset) == (1, 2, 77)
        assert got[3].json() == {"sizes": [1, 2]}


def test_what_a_login_shell_prints_is_dropped_but_kept_for_the_error_message() -> None:
    reader = FrameReader(NONCE)

    assert list(reader.feed(b"bash: python3: not found\n")) == []
    list(reader.feed(b"x" * 100))

    assert not reader.is_greeted
    assert reader.noise.startswith(b"bash: python3")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 6,
        b"D\x00\xff\xff\xff\xff",
        frames.pack(frames.BEAT, 0, {})[:-2].replace(b"\x00\x00\x00\x02", b"\x7f\xff\xff\xff"),
        b"D\x00\x00\x00\x00\x01x",
    ],
)
def test_a_frame_that_cannot_be_ends_the_session_and_costs_no_memory(garbage: bytes) -> None:
    reader = FrameReader(NONCE)
    list(reader.feed(frames.magic(NONCE)))

    with pytest.raises(ProtocolError):
        list(reader.feed(garbage))


def test_endless_noise_before_the_hello_is_given_up() -> None:
    reader = FrameReader(NONCE, max_noise_bytes=1000)

    with pytest.raises(ProtocolError):
        for _ in range(100):
            list(reader.feed(b"y" * 64))


URLS = {
    "plain": ("https://a.org/x?download=true", "https://a.org/x?download=true"),
    "user info": ("https://me:pw@a.org:8443/x", "https://a.org:8443/x"),
    "token": ("https://a.org/x?token=abc&type=Model", "https://a.org/x?type=Model"),
    "signature": ("https://a.org/x?X-Amz-Signature=1&X-Amz-Date=2&a=b", "https://a.org/x?a=b"),
    "azure": ("https://a.org/x?sv=1&se=2&sig=3", "https://a.org/x"),
    "fragment": ("https://a.org/x#token=abc", "https://a.org/x"),
}


@pytest.mark.parametrize("name", URLS)
def test_a_public_url_opens_no_door(name: str) -> None:
    given, public = URLS[name]

    assert redaction.public_url(given) == public


def test_redaction_finds_secrets_and_urls_in_prose() -> None:
    text = "cannot fetch https://a.org/x?token=abc: Bearer hf_secret refused"

    assert redaction.Hidden(["hf_secret"]).redact(text) == "cannot fetch https://a.org/x: Bearer *** refused"


def test_every_verdict_says_what_to_do_next() -> None:
    assert verdicts.next_action("complete", []) == "none"
    assert verdicts.next_action("failed", ["stalled"]) == "retry"
    assert verdicts.next_action("failed", ["stalled", "gated"]) == "fix_credentials"
    assert verdicts.next_action("failed", ["not_found"]) == "fix_profile"
    assert verdicts.next_action("failed", ["not_found", "disk_full"]) == "replace_instance"
    assert verdicts.next_action("unreachable", []) == "replace_instance"
    assert verdicts.next_action("unreachable", ["timed-out"]) == "replace_instance"
    for cause in ("unknown-name", "refused", "closed", "no-exec"):
        assert verdicts.next_action("unreachable", [cause]) == "fix_address"
    assert verdicts.next_action("unreachable", ["no-python"]) == "fix_instance"
    assert verdicts.next_action("refused", ["refused"]) == "fix_instance"
    assert verdicts.next_action("agent-lost", ["folder-gone"]) == "retry"


def test_what_only_follows_from_another_failure_decides_nothing_beside_it() -> None:
    assert verdicts.next_action("failed", ["missing"]) == "fix_profile", "no step makes it"
    assert verdicts.next_action("failed", ["missing", "stalled"]) == "retry"
    assert verdicts.next_action("failed", ["missing", ("unauthorized", "token_unset")]) == "fix_credentials"
    assert verdicts.next_action("failed", [("missing", "gone_since")]) == "retry"


def test_a_case_knows_better_than_its_class_what_to_do() -> None:
    assert verdicts.next_action("failed", ["port_taken"]) == "fix_instance"
    assert verdicts.next_action("failed", ["command"]) == "fix_profile"
    assert verdicts.next_action("failed", [("command", "no_program")]) == "fix_instance"
    assert verdicts.next_action("failed", [("unauthorized", "token_undeclared")]) == "fix_profile"
    assert verdicts.next_action("failed", [("unreachable", "of tomorrow")]) == "retry"


@pytest.mark.parametrize("name", cases.CASES)
def test_a_case_has_words_that_all_its_particulars_fit_into(name: str) -> None:
    case = cases.CASES[name]
    fitting = {"page": "https://huggingface.co/o/r", "pid": "1", "run": "r", "token": "HF_TOKEN"}
    about = {field: fitting.get(field, "some text") for field in re.findall(r"\{(\w+)\}", case.hint)}

    said = cases.words(name, about)

    assert said is not None and "{" not in said
    assert case.next is None or case.next in verdicts.NEXT
    for field in about:
        assert cases.words(name, {**about, field: "a\nb"}) is None
