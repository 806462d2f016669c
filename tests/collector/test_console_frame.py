"""The picture fits every terminal, says what is going on in words, and stays calm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from provision_collector.console.frame import frame
from provision_collector.console.progress import Progress

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Story:
    """A run that is told event by event; `at` is the time on both machines."""

    def __init__(self) -> None:
        self.at = 0.0
        self.progress = Progress("root@203.0.113.7:2222", clock=lambda: self.at)

    def agent(self, event: str, /, **fields: object) -> Story:
        ts = (BEGIN + timedelta(seconds=self.at)).isoformat()
        head = {"format": 2, "seq": 1, "ts": ts, "run": "run-1"}
        self.progress.take({**head, "event": event, "level": "required", **fields})
        return self

    def own(self, event: str, /, **fields: object) -> Story:
        self.progress.take({"event": event, "from": "collector", "run": "run-1", **fields})
        return self

    def started(self) -> Story:
        return self.own("connected").agent("run_started", name="comfyui", deadline_s=3600.0)

    def moving(self, path: str, done: int, total: int, speed: float = 1e6) -> Story:
        return self.agent("download_progress", item=path, bytes=done, total_bytes=total, bytes_per_s=speed)

    def shown(self, width: int = 80, height: int = 24) -> str:
        return "\n".join(line.plain for line in frame(self.progress, width, height))


@pytest.mark.parametrize("width", [20, 40, 59, 60, 71, 72, 80, 120, 300])
@pytest.mark.parametrize("height", [1, 2, 5, 8, 12, 24, 60])
@pytest.mark.parametrize("files", [0, 3, 300])
def test_it_fits_any_terminal(width, height, files):
    story = Story().started()
    for step in ("apt", "python", "repos", "downloads", "files", "commands", "checks", "services"):
        story.agent("step_started", step=step)
    for number in range(files):
        story.moving(f"models/模型-{number}-with-a-rather-long-name.safetensors", 10**8 + number, 7 * 10**9)
    story.agent("package_progress", item="torch", message="x" * 200)

    lines = frame(story.progress, width, height)

    assert len(lines) <= height
    assert max((line.cell_len for line in lines), default=0) <= width


def test_a_moving_file_says_how_far_how_fast_and_how_long_yet():
    story = Story().started().moving("ComfyUI/models/vae/wan.safetensors", 100_000_000, 300_000_000, 10e6)

    row = next(line for line in story.shown().splitlines() if "wan.safetensors" in line)

    assert "100/300 MB" in row
    assert "10.0 MB/s" in row
    assert "20 s" in row
    assert 0.2 < row.count("━") / (row.count("━") + row.count("─") + 1) < 0.4


def test_the_sum_says_when_all_is_there_and_the_limit_is_another_figure():
    story = Story()
    story.progress = Progress("host", clock=lambda: story.at, now=lambda: datetime(2026, 1, 1, 8, 8))
    story.started().moving("a.pth", 100_000_000, 340_000_000, 1e6)

    shown = story.shown()

    assert "all there in 4 m 00 s, at 08:12" in shown
    assert "limit in 1 h 00 m" in shown


def test_while_the_connection_is_lost_no_speed_is_shown():
    story = Story().started().moving("a.pth", 100_000_000, 340_000_000, 1e6)
    assert "MB/s" in story.shown()

    story.own("connection_lost", cause="reset", retry_in_s=4)

    assert "MB/s" not in story.shown()
    assert "all there" not in story.shown()


def test_a_step_whose_items_all_wait_says_for_what():
    story = Story().started().agent("step_started", step="downloads")
    story.agent("download_waiting", item="a.pth", host="huggingface.co", wait_s=60)

    assert "· downloads 0 s, waiting 1 m 00 s (huggingface.co limit)" in story.shown()


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            {"event": "download_waiting", "host": "huggingface.co", "wait_s": 60},
            "waiting 55 s (huggingface.co limit)",
        ),
        (
            {"event": "download_retried", "attempt": 2, "wait_s": 8, "class": "upstream_down"},
            "retrying in 3 s (upstream_down)",
        ),
        (
            {"event": "download_retried", "attempt": 2, "wait_s": 1, "class": "truncated"},
            "retrying now (truncated)",
        ),
        ({"event": "download_stalled", "bytes_per_s": 10, "for_s": 30}, "stalled, trying another way"),
        ({"event": "download_progress", "bytes": 9, "total_bytes": 9, "bytes_per_s": 1}, "verifying…"),
        ({"event": "download_started", "url": "https://x"}, "starting…"),
    ],
)
def test_a_file_that_does_not_move_says_why_and_counts_on(event, words):
    story = Story().started()
    story.agent(event.pop("event"), item="a.safetensors", **event)
    story.at += 5

    assert words in story.shown()


def test_finished_files_are_a_count_and_waiting_ones_too():
    story = Story().started()
    for number in range(50):
        story.agent("download_queued", item=f"{number}.pth")
    for number in range(30):
        story.agent("download_finished", item=f"{number}.pth", bytes=5, sha256="", duration_s=1)
    story.moving("30.pth", 1, 5)

    shown = story.shown()

    assert "30 of 50 files" in shown
    assert "19 waiting for their turn" in shown
    assert len(shown.splitlines()) < 12


def test_more_active_files_than_lines_are_counted():
    story = Story().started()
    for number in range(20):
        story.moving(f"file-{number}.pth", 1, 5)

    assert "and 11 more" in story.shown(height=16)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            {"event": "connecting", "waited_s": 37, "cause": "refused"},
            "waiting for the instance to boot: 42 s (connection refused)",
        ),
        (
            {"event": "connecting", "waited_s": 37, "cause": "refused", "gives_up_after_s": 120},
            "waiting for the instance to boot: 42 s of 2 m 00 s at most (connection refused)",
        ),
        (
            {"event": "connection_lost", "retry_in_s": 8, "cause": "reset"},
            "connection lost, trying again in 3 s; the run goes on",
        ),
        (
            {"event": "connection_lost", "retry_in_s": 2, "cause": "reset"},
            "connection lost, trying again now; the run goes on",
        ),
        ({"event": "connected"}, "run-1 · connected"),
    ],
)
def test_the_connection_is_said_in_words_that_count_on(event, words):
    story = Story()
    story.own(event.pop("event"), **event)
    story.at += 5

    assert words in story.shown()


def test_elapsed_time_and_deadline_follow_the_run_whatever_the_local_clock_says():
    story = Story().started()
    story.at = 600
    story.moving("a", 1, 2)  # an attach sees the run's past at once
    story.at = 660

    assert "11:00 · limit in 49 m" in story.shown()


def test_totals_know_what_preflight_knew_before_every_file_is_sized():
    story = Story().started().agent("preflight_passed", bytes_to_fetch=4_000_000_000)
    story.agent("download_queued", item="b").moving("a", 1_000_000_000, 2_000_000_000, 100e6)

    assert "1.0/4.0 GB" in story.shown()
    assert story.progress.totals().left_s == 30


def test_all_files_together_take_as_long_as_the_slowest():
    story = Story().started().moving("big", 500_000_000, 1_000_000_000, 100e6)
    story.moving("slow", 5_000_000, 10_000_000, 100e3)

    assert story.progress.totals().left_s == 50


def test_the_first_bytes_of_a_file_promise_no_end():
    story = Story().started().moving("big", 1000, 10**9, 1000)
    assert " d " not in story.shown()
    assert story.progress.totals().left_s is None

    story.moving("big", 10**8, 10**9, 1000)
    assert "10 d 10 h" in story.shown()


def test_only_optional_failures_are_no_alarm():
    story = Story().started().agent("download_failed", item="a", level="optional", **{"class": "not_found"})
    assert "! 1 file failed" in story.shown()

    story.agent("download_failed", item="b", level="critical", **{"class": "not_found"})
    assert "✗ 2 files failed" in story.shown()


def test_remote_text_in_the_picture_is_harmless():
    evil = "\x1b]0;owned\x07\r\n[bold]"
    story = Story()
    story.agent("run_started", name=evil, deadline_s=60).moving(f"a/{evil}.pth", 1, 2)
    story.agent("package_progress", item=evil, message=evil).agent("service_ready", item=evil, url=evil)
    story.own("connection_lost", cause=evil, retry_in_s=1)

    assert not set("\x1b\x07\r") & set(story.shown(width=200))
    assert len(story.shown(width=200).splitlines()) == len(frame(story.progress, 200, 24))
