"""The frame parser against everything that could come: any cut, any noise, any garbage; memory stays flat."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provision_agent.contract import frames as wire
from provision_agent.contract.frames import FrameReader, ProtocolError

NONCE = "feed"
FRAMES = st.lists(
    st.one_of(
        st.builds(
            lambda file, generation, offset, data: wire.data_head(file, generation, offset, len(data)) + data,
            st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=300),
        ),
        st.builds(
            lambda kind, file, value: wire.pack(kind, file, {"x": value}),
            st.sampled_from([wire.GENERATION, wire.RESUMED, wire.STATUS, wire.BEAT]),
            st.integers(0, 255), st.text(max_size=50),
        ),
    ),
    max_size=12,
)  # fmt: skip
CUTS = st.lists(st.integers(1, 2000), max_size=20)


def fed(reader: FrameReader, stream: bytes, cuts: list[int]) -> list[wire.Frame]:
    got, at = [], 0
    for cut in [*cuts, len(stream)]:
        got += list(reader.feed(stream[at : at + cut]))
        at += cut
    return got


@settings(max_examples=80, deadline=None)
@given(FRAMES, CUTS, st.binary(max_size=500))
def test_frames_come_out_as_they_went_in(frames: list[bytes], cuts: list[int], noise: bytes) -> None:
    reader = FrameReader(NONCE)

    got = fed(reader, noise + wire.magic(NONCE) + b"".join(frames), cuts)

    again = [
        wire.data_head(f.file, f.generation, f.offset, len(f.payload)) + f.payload
        if f.kind == wire.DATA
        else wire.pack(f.kind, f.file, f.json())
        for f in got
    ]
    assert again == frames
    assert reader.unread == b""


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600), CUTS)
def test_garbage_is_refused_or_kept_small_and_never_crashes(garbage: bytes, cuts: list[int]) -> None:
    reader = FrameReader(NONCE)
    try:
        for frame in fed(reader, wire.magic(NONCE) + garbage, cuts):
            assert len(frame.payload) <= wire.MAX_PAYLOAD_BYTES
            if frame.kind != wire.DATA:
                frame.json()
    except ProtocolError:
        return
    assert len(reader.unread) <= len(garbage)


def test_a_promise_of_the_largest_frame_holds_no_more_than_that() -> None:
    reader = FrameReader(NONCE)
    list(reader.feed(wire.magic(NONCE) + wire.data_head(0, 0, 0, wire.MAX_PAYLOAD_BYTES - 12)))
    rest = wire.MAX_PAYLOAD_BYTES - 12
    assert list(reader.feed(b"x" * (rest - 1))) == []
    assert len(reader.unread) <= wire.MAX_PAYLOAD_BYTES + 64

    got = list(reader.feed(b"x"))

    assert len(got[0].payload) == wire.MAX_PAYLOAD_BYTES - 12


def test_a_frame_that_says_it_is_longer_is_refused_before_its_bytes_come() -> None:
    reader = FrameReader(NONCE)
    too_long = wire.data_head(0, 0, 0, wire.MAX_PAYLOAD_BYTES - 11)

    with pytest.raises(ProtocolError, match="impossible"):
        list(reader.feed(wire.magic(NONCE) + too_long))


def test_noise_before_the_hello_is_bounded() -> None:
    reader = FrameReader(NONCE, max_noise_bytes=1000)

    with pytest.raises(ProtocolError, match="no hello"):
        list(reader.feed(b"x" * 2000))
