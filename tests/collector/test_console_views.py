"""The four views of one run: live, plain, JSON Lines and quiet."""

from __future__ import annotations

import io
import json
import re
import threading

import pytest
from provision_agent.contract.events import AGENT_EVENTS, COLLECTOR_EVENTS, parse_event
from provision_agent.contract.status import RunState
from provision_agent.contract.steps import GROUPS, STEPS
from provision_collector.console import choose_mode, view_for
from provision_collector.console.live import LiveView
from provision_collector.console.plain import PlainView
from provision_collector.console.progress import Progress
from provision_collector.console.summary import fitted, summary
from rich.cells import cell_len
from rich.console import Console

TS = "2026-01-01T00:00:{:02d}.000Z"
OUTCOME = {
    "run": "run-1",
    "host": "root@203.0.113.7",
    "verdict": "failed",
    "exit_code": 1,
    "next": "fix_profile",
    "duration_s": 65,
    "usable_after_s": None,
    "bytes_downloaded": 6_900_000_000,
    "downloads": {"ok": 3, "failed": 1, "skipped": 2},
    "checks": {"passed": 2, "failed": ["Checkpoints"]},
    "warnings": ["the clock of the instance is 3 s late"],
    "services": [{"name": "comfyui", "state": "ready", "url": "http://127.0.0.1:8188"}],
    "errors": [
        {
            "class": "not_found",
            "item": "ComfyUI/models/a.safetensors",
            "level": "critical",
            "message": "404 Not Found " * 10,
            "hint": "check the URL's spelling in a browser, then correct the profile " * 2,
            "retriable": False,
        }
    ],
    "gaps": [{"file": "core", "bytes": 12}],
    "reconnects": 2,
    "logs": {"core": "logs/a.log", "errors": "logs/a.errors.log", "events": "logs/a.events.jsonl"},
}


def agent(event: str, second: int = 0, /, **fields: object) -> dict[str, object]:
    head = {"format": 2, "seq": 1, "ts": TS.format(second), "run": "run-1"}
    return {**head, "event": event, "level": "required", **fields}


def failed(second: int = 0) -> dict[str, object]:
    reason = {"class": "not_found", "message": "404 \x1b[2J from example.org", "hint": "check the URL"}
    return agent("download_failed", second, item="a.safetensors", retriable=False, **reason)


@pytest.mark.parametrize(
    ("json_", "quiet", "tty", "environ", "mode"),
    [
        (False, False, True, {"TERM": "xterm-256color"}, "live"),
        (True, True, True, {"TERM": "xterm"}, "json"),
        (False, True, True, {"TERM": "xterm"}, "quiet"),
        (False, False, False, {"TERM": "xterm"}, "plain"),
        (False, False, True, {"TERM": "xterm", "NO_COLOR": "0"}, "plain"),
        (False, False, True, {"TERM": "xterm", "NO_COLOR": ""}, "live"),
        (False, False, True, {"TERM": "dumb"}, "plain"),
        (False, False, True, {}, "plain"),
    ],
)
def test_the_mode_follows_flags_terminal_and_environment(json_, quiet, tty, environ, mode):
    assert choose_mode(json=json_, quiet=quiet, stderr_is_tty=tty, environ=environ) == mode


class Plain:
    def __init__(self) -> None:
        self.at = 0.0
        self.stream = io.StringIO()
        self.view = PlainView(Progress("203.0.113.7", clock=lambda: self.at), self.stream)
        self.view.event(agent("run_started", name="comfyui", deadline_s=3600.0))

    def tell(self, second: int, event: str, /, **fields: object) -> list[str]:
        self.at = second
        before = len(self.stream.getvalue())
        self.view.event(agent(event, second, **fields))
        return self.stream.getvalue()[before:].splitlines()


def test_plain_says_a_finished_download_with_its_time_size_and_speed():
    lines = Plain().tell(
        42, "download_finished", item="models/x.safetensors", bytes=6_900_000_000, duration_s=42.0
    )

    assert lines == ["00:42  ✓ download finished  models/x.safetensors  6.9 GB in 42 s (164 MB/s)"]


@pytest.mark.parametrize("name", STEPS)
def test_plain_says_what_a_step_does(name):
    assert Plain().tell(3, "step_started", step=name) == [
        f"00:03    step started  {name}  {STEPS[name].text}"
    ]


@pytest.mark.parametrize("kind", GROUPS)
def test_plain_says_how_any_kind_of_item_ends(kind):
    plain = Plain()

    assert plain.tell(3, f"{kind}_finished", item="a", duration_s=2.0)[0].startswith(
        f"00:03  ✓ {kind} finished  a"
    )
    assert plain.tell(3, f"{kind}_skipped", item="a", reason="verified")[0].startswith(
        f"00:03  ✓ {kind} there already  a"
    )


def test_plain_shows_a_failure_with_its_class_and_what_to_do():
    plain = Plain()
    plain.view.event(failed())

    assert plain.stream.getvalue().splitlines()[1:] == [
        "00:00  ✗ download failed  a.safetensors  404 ␛[2J from example.org (not_found)",
        "         next: check the URL",
    ]


def test_plain_shows_progress_at_most_every_ten_seconds():
    plain = Plain()
    told = [
        second
        for second in range(1, 41)
        if plain.tell(second, "download_progress", item="a", bytes=second, total_bytes=100, bytes_per_s=1)
    ]

    assert told == [10, 20, 30, 40]
    assert plain.tell(55, "download_progress", item="a", bytes=50, total_bytes=100, bytes_per_s=2) == [
        "00:55    downloading  0 of 1 file  50/100 B  2 B/s  all there in 25 s"
    ]


def test_plain_says_at_once_that_it_waits_for_the_boot_and_then_now_and_then():
    plain = Plain()
    told = []
    for second in range(25):
        plain.at = second
        before = plain.stream.tell()
        plain.view.event({"event": "connecting", "from": "collector", "waited_s": second, "cause": "refused"})
        told += [second] if plain.stream.tell() > before else []

    assert told == [0, 10, 20]


@pytest.mark.parametrize("name", ["download_sized", "download_queued", "something_new", "", "outcome"])
def test_plain_is_silent_about_what_nobody_needs_or_knows(name):
    assert Plain().tell(1, name, item="a", total_bytes=5) == []


EVIL = "\x1b]0;owned\x07\u202e\x9b2J\r"
BROKEN = [
    EVIL,
    None,
    -1,
    float("nan"),
    float("inf"),
    10**400,
    [],
    [EVIL],
    {},
    {EVIL: EVIL},
    [{"name": EVIL}],
    True,
]


@pytest.mark.parametrize("value", BROKEN, ids=range(len(BROKEN)))
def test_no_event_however_broken_acts_on_the_terminal_or_ends_the_view(value):
    plain, (picture, stream) = Plain(), live()
    for event, fields in (*AGENT_EVENTS.items(), *COLLECTOR_EVENTS.items()):
        origin = {"from": "collector"} if event in COLLECTOR_EVENTS else {}
        broken = dict.fromkeys(("item", "ts", "run", "seq", "level", "labels", *fields), value)
        for part in (broken, dict(broken, item="a", ts=TS.format(1)), {}):
            plain.at += 30
            plain.view.event({"event": event, **origin, **part})
            picture.event({"event": event, **origin, **part})
            picture.picture.draw()
    remote = ("run", "host", "verdict", "duration_s", "usable_after_s", "bytes_downloaded")
    error = dict.fromkeys(("class", "item", "level", "message", "hint"), value)
    plain.view.outcome(
        dict(
            OUTCOME,
            **dict.fromkeys(remote, value),
            warnings=[value],
            errors=[error],
            services=[{"name": value, "url": value}],
        )
    )

    assert not set(EVIL) & set("\x1b\x07\u202e\x9b\r") & set(plain.stream.getvalue())
    assert "owned\x07" not in stream.getvalue()
    assert not set("\u202e\x9b") & set(stream.getvalue())


def test_json_is_one_line_for_each_event_and_last_the_outcome():
    out, err = io.StringIO(), io.StringIO()
    own = {"event": "connected", "from": "collector", "host": "x"}
    with view_for("json", host="x", stdout=out, stderr=err) as view:
        for event in (own, failed(), {"event": "outcome", "verdict": "failed"}):
            view.event(event)
        view.outcome(OUTCOME)

    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        own,
        failed(),
        {"event": "outcome", "from": "collector", **OUTCOME},
    ]
    assert out.getvalue().isascii()
    assert err.getvalue() == ""


@pytest.mark.parametrize(("exit_code", "is_silent"), [(0, True), (1, False)])
def test_quiet_speaks_only_when_it_has_failed(exit_code, is_silent):
    out, err = io.StringIO(), io.StringIO()
    with view_for("quiet", host="x", stdout=out, stderr=err) as view:
        view.event(failed())
        view.outcome(dict(OUTCOME, exit_code=exit_code))

    assert out.getvalue() == ""
    assert (err.getvalue() == "") is is_silent


def summary_text(outcome: dict[str, object], width: int = 80) -> str:
    return "\n".join(line for words in summary(outcome) for line in fitted(words, width))


def test_the_summary_has_every_fact_and_ends_with_what_to_do():
    text = summary_text(OUTCOME)

    for fact in (
        "❌ failed in 1 m 05 s",
        "3 ok, 1 failed, 2 skipped",
        "6.9 GB",
        "2 passed, 1 failed",
        "http://127.0.0.1:8188",
    ):
        assert fact in text
    for fact in (
        "(critical, not_found)",
        "next: check the URL",
        "clock of the instance",
        "2 reconnects, 1 gap",
        "logs/a.log",
        ".errors.log and .events.jsonl beside it",
    ):
        assert fact in text
    assert text.splitlines()[-1].startswith("next: correct the profile")


def test_a_complete_run_says_how_to_reach_what_listens_on_the_instance_only():
    complete = dict(OUTCOME, verdict="complete", next="none", errors=[])
    services = [{"name": "comfyui", "state": "ready", "url": "http://127.0.0.1:8188", "reachable": True}]

    last = summary_text(complete).splitlines()[-1]

    assert last.startswith("next: `provision forward ") and "`comfyui`" in last
    assert "provision forward" not in summary_text(dict(complete, services=services))


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_summary_fits_its_width(width):
    assert max(cell_len(line) for line in summary_text(OUTCOME, width).splitlines()) <= width


def test_a_lost_contact_is_told_how_to_go_on():
    text = summary_text({"verdict": "contact-lost", "exit_code": 12, "next": "retry", "run": "run-1"})

    assert text.splitlines()[-1] == "next: `provision attach run-1` goes on following it"


def test_a_verdict_of_a_newer_version_is_still_shown():
    assert "❌ paused: see the errors below" in summary_text({"verdict": "paused\x1b"[:6]})


def live(width: int = 80, height: int = 24) -> tuple[LiveView, io.StringIO]:
    stream = io.StringIO()
    console = Console(
        file=stream,
        force_terminal=True,
        width=width,
        height=height,
        color_system=None,
        markup=False,
        highlight=False,
    )
    return LiveView(Progress("203.0.113.7", clock=lambda: 0.0), console), stream


def test_live_tells_an_error_once_above_the_picture_and_harmlessly():
    view, stream = live()
    with view:
        view.event(agent("run_started", name="comfyui", deadline_s=60.0))
        view.event(failed())
        view.picture.draw()
        view.outcome({"verdict": "complete", "exit_code": 0})

    written = stream.getvalue()
    assert written.count("404 ␛[2J from example.org (not_found)") == 1
    assert "next: check the URL" in written
    assert "\x1b[2J" not in written
    assert written.rstrip().endswith("✅ complete: everything needed is there and checked")


def test_a_view_that_follows_a_run_shows_what_the_run_knows_and_folds_nothing():
    state, (view, _), plain = RunState("run-1"), live(), Plain()
    known = agent("download_progress", item="known.safetensors", bytes=5, total_bytes=10, bytes_per_s=1)
    state.fold(parse_event(known))
    for each in (view, plain.view):
        each.follow(state)
        each.event(agent("download_progress", item="unknown.safetensors", bytes=1, total_bytes=10))
    view.picture.draw()

    assert [line.plain.split()[1] for line in view.picture._drawn if "safetensors" in line.plain] == [
        "known.safetensors"
    ]
    assert list(state.items["downloads"]) == ["known.safetensors"]
    assert "0 of 1 file  5/10 B" in plain.tell(20, "download_progress", item="known.safetensors")[0]


def test_the_picture_is_not_drawn_while_another_thread_folds():
    state, (view, _) = RunState("run-1"), live()
    view.follow(state)
    drawing = threading.Thread(target=view.picture.draw)
    with state.lock:
        drawing.start()
        drawing.join(0.1)
        was_waiting = drawing.is_alive()
    drawing.join(10)

    assert was_waiting
    assert view.picture._drawn


def test_live_gives_the_cursor_back_also_after_a_crash():
    view, stream = live()
    with pytest.raises(RuntimeError), view:
        view.picture.draw()
        raise RuntimeError

    assert stream.getvalue().rfind("\x1b[?25h") > stream.getvalue().rfind("\x1b[?25l") >= 0
    assert not any(thread.name == "live-view" for thread in threading.enumerate())


def test_live_writes_nothing_while_nothing_changes():
    view, stream = live()
    view.picture._live.start()  # without its thread
    view.picture.draw()
    once = stream.getvalue()
    view.picture.draw()
    twice = stream.getvalue()
    view.event(agent("run_started", name="comfyui", deadline_s=60.0))
    view.picture.draw()
    changed = stream.getvalue()
    view.picture._live.stop()

    assert once == twice != changed


def test_live_erases_the_lines_that_a_narrower_terminal_has_wrapped():
    view, stream = live(width=80)
    view.picture._live.start()
    view.event(agent("run_started", name="comfyui", deadline_s=60.0))
    view.picture.draw()
    drawn = [line.cell_len for line in view.picture._drawn]
    view.picture.console.width = 40
    before = len(stream.getvalue())
    view.picture.draw()
    ups = stream.getvalue()[before:].count("\x1b[1A")
    view.picture._live.stop()

    assert ups == sum(-(-cells // 40) for cells in drawn if cells) + drawn.count(0) - 1


def test_live_with_stdout_elsewhere_writes_plain_lines_there_too():
    out, err = io.StringIO(), io.StringIO()
    with view_for("live", host="x", stdout=out, stderr=err) as view:
        view.event(failed())
        view.outcome(OUTCOME)

    assert "✗ download failed" in out.getvalue()
    assert "❌ failed" in out.getvalue()
    assert re.search("\x1b", out.getvalue()) is None
    assert "download failed" in err.getvalue()


def test_an_old_locale_gets_question_marks_and_no_crash():
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    with view_for("plain", host="x", stdout=out, stderr=io.StringIO()) as view:
        view.outcome(OUTCOME)
    out.flush()

    assert b"? failed in 1 m 05 s" in re.sub(rb"\s+", b" ", raw.getvalue())
