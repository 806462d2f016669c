"""The engine's parts one by one: the map of bytes, formats, archives, growth, what is said of progress."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import tarfile
import zipfile

import pytest
from harness.file_server import Content
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Download
from provision_agent.contract.plan_parts import HostLimits, Stall
from provision_agent.downloads import unpack, verify
from provision_agent.downloads.engine.hasher import Hasher
from provision_agent.downloads.engine.ranges import Extents, gaps, merged
from provision_agent.downloads.engine.tuner import CONNECTIONS_MOST, Tuner
from provision_agent.downloads.hosts import Hosts, Rate
from provision_agent.downloads.progress import Progress
from provision_agent.downloads.source_selector import Source

MIB = 1 << 20


# -- extents


@pytest.mark.parametrize("seed", range(20))
def test_every_byte_is_in_exactly_one_place_whatever_happens(seed):
    rand = random.Random(seed)
    size = rand.randrange(1, 5000)
    extents = Extents(size, [(a, a + rand.randrange(50)) for a in range(0, size - 60, 500)])
    written = bytearray(size)
    for a, b in merged([(0, size)]):
        for gap in gaps(extents.missing, size):
            written[gap[0] : gap[1]] = b"x" * (gap[1] - gap[0])
        assert (a, b) == (0, size)
    clock = 0.0
    while not extents.is_complete:
        clock += 1.0
        claims = sorted(extents.claims, key=lambda claim: claim.start)
        act = rand.choice(("claim", "land", "land", "split", "release"))
        if act == "claim":
            extents.claim(rand.randrange(1, 400), clock)
        elif claims:
            claim = rand.choice(claims)
            if act == "land":
                count = rand.randrange(0, claim.left + 1)
                assert not any(written[claim.position : claim.position + count])
                written[claim.position : claim.position + count] = b"x" * count
                extents.land(claim, count, clock)
            elif act == "split" and claim.left > 1:
                extents.split(claim, claim.position + rand.randrange(1, claim.left), clock)
            elif act == "release" or claim.left == 0:
                extents.release(claim)
        assert extents.landed == sum(map(bool, written))
        assert all(written[: extents.frontier])

    assert extents.landed == extents.frontier == size
    assert all(written)


@pytest.mark.parametrize("seed", range(10))
def test_the_hash_is_right_whichever_bytes_are_handed_in_and_whichever_are_read_back(seed, tmp_path):
    rand = random.Random(seed)
    content = Content(rand.randrange(1, 12 * MIB), seed)
    landed = Extents(content.size)
    with (tmp_path / "m").open("w+b") as file:
        hasher = Hasher(file.fileno(), lambda: landed.frontier)
        claims = [claim for _ in range(4) if (claim := landed.claim(3 * MIB, 0.0))]
        while claims:
            claim = rand.choice(claims)
            piece = content.read(claim.position, min(claim.left, rand.randrange(1, MIB)))
            at = claim.position
            os.pwrite(file.fileno(), piece, at)
            landed.land(claim, len(piece), 0.0)
            if rand.random() < 0.8:
                hasher.offer(piece, at)
            if claim.left == 0:
                landed.release(claim)
                claims = [
                    *(each for each in claims if each is not claim),
                    *filter(None, [landed.claim(3 * MIB, 0.0)]),
                ]

        assert hasher.result(content.size, stop=lambda: False) == content.sha256


def test_bytes_that_land_after_their_stretch_was_cut_count_once():
    extents = Extents(100)
    claim = extents.claim(100, 0.0)
    thief = extents.split(claim, 40, 1.0)

    assert extents.land(claim, 60, 1.0) == 40
    assert extents.land(thief, 60, 1.0) == 60
    assert extents.landed == 100


def test_a_file_of_unknown_length_learns_it_at_its_end():
    extents = Extents(None)
    claim = extents.claim(1 << 62, 0.0)
    extents.land(claim, 70, 1.0)
    assert extents.landed == 70

    extents.learn_size(claim.position)
    extents.release(claim)

    assert (extents.is_complete, extents.landed, extents.frontier) == (True, 70, 70)


def test_a_claims_rate_forgets_what_was_long_ago():
    extents = Extents(100 * MIB)
    claim = extents.claim(100 * MIB, 0.0)
    extents.land(claim, 10 * MIB, 0.5)
    for tenth in range(5, 40):
        claim.sample(tenth / 10)

    assert claim.rate(4.0) == 0.0


# -- formats


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # with a date of its own, not this second's
    return out.getvalue()


TENSOR = json.dumps(
    {"__metadata__": {"a": "b"}, "t": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}
).encode()
FORMATS = {
    "safetensors": ("m.safetensors", safetensors(TENSOR, b"1234"), None),
    "safetensors without tensors": ("m.safetensors", safetensors(b"{}"), None),
    "one byte short": ("m.safetensors", safetensors(TENSOR, b"123"), "truncated"),
    "one byte long": ("m.safetensors", safetensors(TENSOR, b"12345"), "not_a_model"),
    "cut in the header": ("m.safetensors", safetensors(TENSOR)[:40], "truncated"),
    "a header that is too long": ("m.safetensors", struct.pack("<Q", 1 << 40) + b"{}", "not_a_model"),
    "a header that is no JSON": ("m.safetensors", safetensors(b"{no}"), "not_a_model"),
    "a header with an end at infinity": (
        "m.safetensors",
        safetensors(b'{"t": {"data_offsets": [0, Infinity]}}'),
        "not_a_model",
    ),
    "a header nested without end": (
        "m.safetensors",
        safetensors(b'{"t": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "not_a_model",
    ),
    "a header of other things": (
        "m.safetensors",
        safetensors(b'{"t": {"data_offsets": "0:4"}}'),
        "not_a_model",
    ),
    "a header with half a range": (
        "m.safetensors",
        safetensors(b'{"t": {"data_offsets": []}}'),
        "not_a_model",
    ),
    "an empty safetensors": ("m.safetensors", b"", "not_a_model"),
    "gguf": ("m.gguf", b"GGUF\3\0\0\0", None),
    "no gguf": ("m.gguf", b"\0" * 8, "not_a_model"),
    "zip": ("m.zip", zipped(a=b"x"), None),
    "an empty zip": ("m.zip", zipped(), None),
    "half a zip": ("m.zip", zipped(a=b"x" * 200)[:150], "truncated"),
    "a torch file": ("m.pth", zipped(a=b"x"), None),
    "half a torch file": ("m.ckpt", zipped(a=b"x" * 200)[:150], "truncated"),
    "an old torch file": ("m.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", None),
    "a page": ("m.ckpt", b"\n <!doctype HTML><p>no", "not_a_model"),
    "a page with a byte order mark": ("m.bin", b"\xef\xbb\xbf<html>", "not_a_model"),
    "an error": ("m.bin", b'{"message": "nope"}', "not_a_model"),
    "JSON that is wanted": ("config.json", b'{"message": "yes"}', None),
    "a page that is wanted": ("index.html", b"<html>", None),
    "a pointer even as text": ("m.txt", b"version https://git-lfs.github.com/spec/v1\n", "not_a_model"),
    "bytes": ("m.bin", bytes(range(256)), None),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_held_against_its_name(name, tmp_path):
    file_name, data, class_ = FORMATS[name]
    path = tmp_path / file_name
    path.write_bytes(data)
    with open(path, "rb") as file:
        try:
            verify.check_format(file.fileno(), file_name, len(data))
        except Failure as failure:
            assert failure.class_ == class_
        else:
            assert class_ is None


# -- archives


def tarred(*members: tarfile.TarInfo, data: bytes = b"data") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def never() -> bool:
    return False


@pytest.mark.parametrize("kind", ["auto", "zip"])
def test_a_zip_is_unpacked_into_its_folder(kind, tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(**{"one.txt": b"1", "deep/two.txt": b"2"}))

    unpack.unpack(str(tmp_path / "a.zip"), str(tmp_path), kind, stop=never)

    assert (tmp_path / "one.txt").read_bytes() == b"1"
    assert (tmp_path / "deep" / "two.txt").read_bytes() == b"2"
    assert (tmp_path / "a.zip").exists()


def test_a_tar_is_unpacked_with_links_that_stay_inside(tmp_path):
    data = tarred(
        member("deep/one"),
        member("link", tarfile.SYMTYPE, "deep/one"),
        member("copy", tarfile.LNKTYPE, "deep/one"),
    )
    (tmp_path / "a.tgz").write_bytes(data)

    unpack.unpack(str(tmp_path / "a.tgz"), str(tmp_path), "auto", stop=never)

    assert [(tmp_path / name).read_bytes() for name in ("deep/one", "link", "copy")] == [b"data"] * 3


UNSAFE = {
    "an absolute path": [member("/tmp/evil")],
    "a path upwards": [member("a/../../evil")],
    "a link out": [member("link", tarfile.SYMTYPE, "../..")],
    "an absolute link": [member("link", tarfile.SYMTYPE, "/etc/passwd")],
    "a hard link out": [member("link", tarfile.LNKTYPE, "../../etc/passwd")],
    "a device": [member("null", tarfile.CHRTYPE)],
    "a pipe": [member("pipe", tarfile.FIFOTYPE)],
    "a good one and a bad one": [member("good"), member("../bad")],
}


@pytest.mark.parametrize("name", UNSAFE)
def test_an_archive_that_wants_out_is_refused_before_anything_is_written(name, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(tarred(*UNSAFE[name]))

    with pytest.raises(Failure) as raised:
        unpack.unpack(str(tmp_path / "in" / "a.tar"), str(tmp_path / "in"), "auto", stop=never)

    assert raised.value.class_ == "unsafe_path"
    assert os.listdir(tmp_path) == ["in"]
    assert os.listdir(tmp_path / "in") == ["a.tar"]


def test_a_zip_that_wants_out_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(**{"../evil": b"x"}))

    with pytest.raises(Failure, match="leads out"):
        unpack.unpack(str(tmp_path / "a.zip"), str(tmp_path), "auto", stop=never)


def test_nothing_is_written_through_a_link_that_was_there_before(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "deep").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "a.zip").write_bytes(zipped(**{"deep/evil": b"x"}))

    with pytest.raises(Failure, match="behind a link"):
        unpack.unpack(str(tmp_path / "in" / "a.zip"), str(tmp_path / "in"), "auto", stop=never)

    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    "data", [b"no archive", zipped(a=b"x" * 500)[:300], b""], ids=["other bytes", "cut off", "nothing"]
)
def test_what_is_no_archive_is_said_so(data, tmp_path):
    (tmp_path / "a.zip").write_bytes(data)

    with pytest.raises(Failure) as raised:
        unpack.unpack(str(tmp_path / "a.zip"), str(tmp_path), "auto", stop=never)

    assert raised.value.class_ == "not_a_model"


def test_an_archive_is_downloaded_unpacked_and_not_unpacked_twice(bench, server):
    url = server.add("/a.zip", Content.of(zipped(**{"deep/one.txt": b"1"})))
    item = Download(url=url, path="tools/a.zip", unpack="auto")

    first = bench.fetch_one(item)
    made = bench.path("tools/deep/one.txt").stat()
    second = bench.fetch_one(item)

    assert (first.state, second.state) == ("ok", "skipped")
    assert bench.path("tools/deep/one.txt").stat() == made


def test_an_archive_that_leads_out_fails_its_item(bench, server):
    url = server.add("/a.zip", Content.of(zipped(**{"../evil": b"1"})))

    result = bench.fetch_one(Download(url=url, path="tools/a.zip", unpack="zip"))

    assert result.failure.class_ == "unsafe_path"
    assert not bench.path("evil").exists()


# -- how many, how fast


def tuned(speed_of, seconds: float, late_share: float = 0.1, files=None, connections=None) -> Tuner:
    """Let time pass; *speed_of* says how fast so many connections are."""
    tuner, landed = Tuner(files, connections), 0.0
    for tick in range(int(seconds * 4)):
        landed += speed_of(tuner.connections) / 4
        tuner.tick(tick / 4, int(landed), int(landed * late_share), is_full=True)
    return tuner


def test_the_usual_number_of_connections_comes_at_once_where_the_line_is_the_limit():
    assert tuned(lambda count: count * 20e6, 0.25).connections < 32
    assert tuned(lambda count: count * 20e6, 0.5).connections == 32


def test_where_answers_come_from_far_away_the_usual_number_is_there_from_the_start():
    near, far = Tuner(None, None), Tuner(None, None)

    near.expect(0.002)
    far.expect(0.15)

    assert near.connections < far.connections == 32


def test_connections_grow_while_the_line_is_not_full():
    tuner = tuned(lambda count: count * 20e6, 20.0)

    assert (tuner.connections, tuner.per_file, tuner.files) == (CONNECTIONS_MOST, 16, 8)


def test_connections_go_back_when_more_bring_nothing():
    tuner = tuned(lambda count: 100e6, 20.0)

    assert (tuner.connections, tuner.per_file, tuner.files) == (32, 8, 4)


def test_where_this_machine_is_the_limit_it_stays_with_a_few_connections():
    few = tuned(lambda count: 500e6, 1.0, late_share=0.9).connections

    assert few < 32
    assert tuned(lambda count: 500e6, 100.0, late_share=0.9).connections == few


def test_a_few_connections_are_not_kept_when_more_are_faster_after_all():
    assert tuned(lambda count: count * 20e6, 60.0, late_share=0.9).connections == 32


def test_numbers_of_the_plan_are_never_passed():
    tuner = tuned(lambda count: count * 20e6, 20.0, files=2, connections=6)

    assert (tuner.files, tuner.per_file, tuner.connections) == (2, 6, 12)


def test_files_grow_also_where_each_may_have_one_connection_only():
    tuner = tuned(lambda count: count * 20e6, 20.0, connections=1)

    assert (tuner.files, tuner.per_file, tuner.connections) == (8, 1, 8)


def test_the_built_in_caps_hold_for_every_name_of_a_host():
    hosts = Hosts({"x.test": HostLimits(files=3)})

    assert not hosts.may_begin(["civitai.com"], [["civitai.com"]])
    assert hosts.connections_cap("www.dropbox.com", "uc1.dl.dropboxusercontent.com") == 1
    assert not hosts.may_begin(["cdn.x.test"], [["cdn.x.test"], ["x.test"], ["a.x.test"]])
    assert hosts.may_begin(["evilx.test"], [["evilx.test"]] * 9)
    assert hosts.connections_cap("huggingface.co") is None


def test_a_rule_merges_with_the_built_in_one_field_by_field():
    hosts = Hosts({"civitai.com": HostLimits(connections=3), "dropbox.com": HostLimits(files=2)})

    assert not hosts.may_begin(["civitai.com"], [["civitai.com"]])
    assert hosts.connections_cap("civitai.com") == 3
    assert hosts.connections_cap("www.dropbox.com") == 1
    assert not hosts.may_begin(["www.dropbox.com"], [["www.dropbox.com"], ["dropbox.com"]])


def test_a_rule_holds_for_the_host_that_is_written_and_for_the_one_that_it_leads_to():
    drive = Source("https://drive.google.com/file/d/abc/view")
    assert drive.host == "drive.usercontent.google.com"

    gentle = Hosts({})
    wished = Hosts({"drive.google.com": HostLimits(files=5, connections=4)})

    assert gentle.connections_cap(*drive.hosts) == 1
    assert not gentle.may_begin(drive.hosts, [drive.hosts] * 2)
    assert wished.connections_cap(*drive.hosts) == 4
    assert wished.may_begin(drive.hosts, [drive.hosts] * 4)
    assert not wished.may_begin(drive.hosts, [drive.hosts] * 5)
    assert Hosts({"civitai.com": HostLimits(files=2)}).may_begin(
        Source("civitai:123").hosts, [["civitai.com"]]
    )


def test_of_two_rules_for_one_host_the_more_exact_one_holds():
    hosts = Hosts({"x.test": HostLimits(connections=2), "cdn.x.test": HostLimits(connections=7)})

    assert (hosts.connections_cap("cdn.x.test"), hosts.connections_cap("a.x.test")) == (7, 2)


def test_a_rate_owes_time_for_bytes():
    now = [100.0]
    rate = Rate(1000, clock=lambda: now[0])

    assert rate.take(100) == pytest.approx(0.0)
    assert rate.take(1000) == pytest.approx(1.0)
    now[0] += 1.0
    assert rate.take(500) == pytest.approx(0.5)
    assert Rate(None).take(10**9) == 0.0


# -- progress


def test_a_stall_is_seen_only_after_its_whole_window():
    now, said = [0.0], []
    progress = Progress(lambda event, **fields: said.append(fields), Stall(1000, 10.0), clock=lambda: now[0])
    progress.begin(0, 10**6)
    for second in range(1, 40):
        now[0] = float(second)
        progress.note(min(second, 12) * 5000)
        if second < 20:
            assert progress.stalled(1000) is None
    assert progress.stalled(1000) == 0.0
    progress.restart_window()
    assert progress.stalled(1000) is None


def test_progress_speaks_at_most_twice_a_second():
    now, said = [0.0], []
    progress = Progress(lambda event, **fields: said.append(fields), Stall(), clock=lambda: now[0])
    progress.begin(0, 1000)
    for tick in range(1, 101):
        now[0] = tick / 50
        progress.note(tick)

    assert len(said) == 4
