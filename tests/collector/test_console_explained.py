"""The story of a run from its events: what waited for what, how fast it came, and the page that people attach to a report."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from provision_agent.contract.events import Event, parse_event
from provision_collector.console.explained import item_lines, run_lines, speed_bar
from provision_collector.console.explained_page import html_page
from provision_collector.console.story import Story, story_of

HOSTILE = "m/<script>alert(1)</script>\x1b]0;x\x07.safetensors"


def events(*told: tuple[int, dict[str, Any]]) -> list[Event]:
    start = {
        "event": "run_started", "plan_hash": "0" * 64, "name": "flux", "deadline_s": 600.0, "resumed": False,
        "restarts": 0, "labels": {}, "workspace": "/w", "pid": 1,
    }  # fmt: skip
    return [
        parse_event(
            {"format": 2, "run": "run-1", "seq": seq, "ts": f"2026-01-01T00:{at_s // 60:02d}:{at_s % 60:02d}.000Z", **event}
        )
        for seq, (at_s, event) in enumerate([(0, start), *told], start=1)
    ]  # fmt: skip


def of(name: str, item: str, **fields: Any) -> dict[str, Any]:
    return {"event": name, "item": item, "level": "critical", **fields}


def failed(name: str, item: str, **fields: Any) -> dict[str, Any]:
    words = {"class": "not_found", "message": "HTTP 404", "hint": "look", "retriable": False}
    return of(name, item, **words, **fields)


RUN = events(
    (0, {"event": "step_started", "step": "python"}),
    (0, of("download_queued", "m/a.safetensors")),
    (1, of("package_started", "venv")),
    (2, of("download_started", "m/a.safetensors", url="https://a.example/a")),
    (3, of("download_progress", "m/a.safetensors", bytes=10, total_bytes=100, bytes_per_s=10.0)),
    (4, of("download_waiting", "m/a.safetensors", host="a.example", wait_s=6.0, url="https://a.example/a")),
    (10, of("download_progress", "m/a.safetensors", bytes=60, total_bytes=100, bytes_per_s=80.0)),
    (12, of("download_finished", "m/a.safetensors", bytes=100, duration_s=10.0)),
    (31, of("package_finished", "venv", duration_s=30.0)),
    (31, of("package_started", "torch")),
    (71, of("package_finished", "torch", duration_s=40.0)),
    (72, of("service_started", "comfyui", pid=7)),
    (90, of("service_ready", "comfyui", url="http://127.0.0.1:8188", after_s=18.0)),
    (90, {"event": "run_usable", "after_s": 90.0}),
    (91, failed("download_failed", HOSTILE)),
    (100, {"event": "run_finished", "verdict": "failed", "duration_s": 100.0, "bytes_downloaded": 100, "errors_log": "/w/e"}),
)  # fmt: skip


@pytest.fixture(scope="module")
def story() -> Story:
    return story_of("run-1", "root@203.0.113.7", RUN)


def test_what_usable_waited_for_is_told_one_after_the_other(story: Story) -> None:
    assert [span.item for span in story.critical_path()] == ["venv", "torch", "comfyui"]
    text = "\n".join(run_lines(story, 100))
    assert "usable after 1 m 30 s, 1 m 40 s in all" in text
    assert re.search(r"package torch +00:31 +40 s +·+━+", text)


def test_an_item_that_went_on_all_the_time_hides_none_of_those_that_ended_with_it() -> None:
    story = story_of(
        "run-1",
        "here",
        events(
            (0, of("package_started", "environment")),
            (1, of("package_started", "torch")),
            (50, of("package_finished", "torch", duration_s=49.0)),
            (50, of("service_started", "comfyui", pid=1)),
            (90, of("service_ready", "comfyui", after_s=40.0)),
            (90, of("package_finished", "environment", duration_s=90.0)),
            (90, {"event": "run_usable", "after_s": 90.0}),
        ),
    )

    assert [span.item for span in story.critical_path()] == ["torch", "comfyui"]


def test_an_items_story_has_its_sources_waits_and_speeds(story: Story) -> None:
    [span] = story.of("a.safetensors")

    text = "\n".join(item_lines(span, 100))
    assert text.startswith("download m/a.safetensors  done after 10 s, critical")
    assert "00:02  download started  from a.example" in text
    assert "00:04  download waiting  6 s (a.example limit)" in text
    assert text.endswith("10 B/s to 80 B/s")
    [wait] = span.waits
    assert (wait.begin_s, wait.end_s) == (4.0, 10.0)
    assert speed_bar(span, 10)[:10] == "▁▂▂▂▂▂▂▂██"


def test_a_run_that_goes_on_is_told_up_to_now() -> None:
    story = story_of("run-1", "here", RUN[:11])

    [torch] = story.of("torch")
    assert (torch.state, torch.end_s) == ("running", 31.0)
    assert "not usable" in next(iter(run_lines(story, 80)))


class Parsed(HTMLParser):
    """Every element of a page, and where it leads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.leads: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.leads += [
            value or "" for name, value in attrs if name in ("src", "href") or name.startswith("on")
        ]


def test_the_page_holds_all_that_it_shows_and_obeys_nothing_that_an_instance_says(story: Story) -> None:
    page = html_page(story, "root@203.0.113.7")

    parsed = Parsed(page)
    assert "script" not in parsed.tags and parsed.leads == []
    assert "&lt;script&gt;alert(1)" in page and "\x1b" not in page and "\x07" not in page
    assert "url(" not in page and "default-src 'none'" in page
    assert page.count('class="done path"') == 3
    assert 'class="wait"' in page


def test_ten_thousand_items_make_a_page_that_a_browser_takes() -> None:
    many = [(1, of("download_finished", f"m/{number}", bytes=1, duration_s=1.0)) for number in range(10_000)]

    assert len(html_page(story_of("run-1", "here", events(*many)), "here")) < 2_000_000


def test_the_time_before_the_agents_first_event_counts_as_the_outcome_counts_it() -> None:
    late = events(
        (0, of("download_started", "m/a.safetensors", url="https://a.example/a")),
        (10, of("download_finished", "m/a.safetensors", bytes=100, duration_s=10.0)),
        (10, {"event": "run_usable", "after_s": 16.0}),
        (12, {"event": "run_finished", "verdict": "complete", "duration_s": 18.0, "bytes_downloaded": 100}),
    )  # fmt: skip

    story = story_of("run-1", "here", late)

    assert "usable after 16 s, 18 s in all" in next(run_lines(story, 100))
    assert [(span.begin_s, span.end_s) for span in story.spans] == [(6.0, 16.0)]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_each_names_its_file(width: int) -> None:
    item = "ComfyUI/models/diffusion_models/wan2.2_t2v_high_noise_14B.safetensors"
    found = events(
        (0, of("download_started", item, url="https://a.example/a")),
        (100, of("download_finished", item, bytes=100, duration_s=100.0)),
        (100, {"event": "run_usable", "after_s": 100.0}),
    )  # fmt: skip

    lines = list(run_lines(story_of("run-1", "here", found), width))

    assert max(map(len, lines)) <= width
    assert sum("download wan" in line and "safetensors" in line for line in lines) == 2


def test_the_page_of_a_run_that_goes_on_does_not_say_that_it_is_never_usable() -> None:
    going = html_page(story_of("run-1", "here", RUN[:5]), "here")
    over = html_page(story_of("run-1", "here", RUN), "here")

    assert "not yet" in going and ">never<" not in going
    assert 'class="usable"' in over and 'class="usable"' not in going


def test_a_step_that_mostly_waited_says_how_little_of_its_time_was_work() -> None:
    found = events(
        (0, {"event": "step_started", "step": "downloads"}),
        (0, of("package_progress", "venv", message="looking")),
        (1, of("download_started", "m/a.safetensors", url="https://a.example/a")),
        (2, of("download_finished", "m/a.safetensors", bytes=10, duration_s=1.0)),
        (40, {"event": "step_finished", "step": "downloads", "ok": 1, "duration_s": 40.0}),
        (46, {"event": "run_finished", "verdict": "complete", "duration_s": 46.0, "bytes_downloaded": 10, "errors_log": "/w/e"}),
    )  # fmt: skip
    story = story_of("run-1", "here", found)
    [row] = [line for line in run_lines(story, 100) if line.startswith("  downloads")]

    assert re.search(r"00:00 +1\.0 s +╌*━+╌{10,}$", row)
    assert "1.0 s of work in 40 s" in html_page(story, "here")
    assert "running" not in html_page(story, "here"), "nothing runs in a run that has ended"
