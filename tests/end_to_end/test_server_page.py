"""The page in a real browser: what it shows of a real run, by mouse, by keyboard, on a phone's width, under a flood."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest
from harness.file_server import Fault, FileServer
from playwright.sync_api import Browser, Page, expect, sync_playwright
from provision_collector.demo.instance import EmbeddedInstance

from .server import TOKEN, Server
from .test_server import order
from .test_server_access import PROFILE, closed_port
from .test_up import free_port, profile_of

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
SHOTS = os.environ.get("PROVISION_SCREENSHOTS")
"""A folder that takes screenshots, to be looked at."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "there is no Chromium on this machine"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def page_of(browser: Browser, server: Server, **options: object) -> Page:
    """A fresh browser window, logged in by the printed link; an error on the page fails the test."""
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.on("pageerror", lambda error: pytest.fail(f"the page: {error}"))
    page.goto(server.page)
    assert "token" not in page.url, "the token does not stay in the address"
    return page


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def is_as_wide_as_its_window(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def begin(server: Server, instance: EmbeddedInstance, files: FileServer) -> Fault:
    """A run with a service, a missing optional file and a slow required one."""
    extra = (
        "services:\n  - {name: web, level: critical, directory: models,"
        f' run: [python3, -m, http.server, "{free_port()}", --bind, 127.0.0.1]}}\n'
    )
    text = profile_of(files, extra=extra)
    fault = Fault(slow_after=1 << 16, bytes_per_s=100_000)
    files.set_faults("/required.safetensors", fault)
    files.set_faults("/optional.safetensors", Fault(status=404))
    server.post("/api/runs", order(instance, text, run_id="first", labels={"pool": "a"}, instance_id="i-7"))
    return fault


def test_a_run_is_shown_from_the_list_to_its_verdict(
    browser: Browser, server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    fault = begin(server, instance, files)
    page = page_of(browser, server)
    row = page.locator("#runs tr")
    expect(row.locator(".state")).to_have_text("usable")
    expect(row.locator("td").nth(5)).to_contain_text("s")
    expect(page.locator("#counts")).to_contain_text("1 usable")
    shoot(page, "list-light")
    assert page.evaluate("fetch(document.querySelector('link[rel=icon]').href).then((answer) => answer.ok)")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="first")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text("usable")
    required = page.locator("#files li", has_text="required.safetensors")
    expect(required.locator(".told")).to_contain_text("/s")
    assert 0 < required.locator("progress").evaluate("bar => bar.value / bar.max") < 1
    expect(page.locator("#errors")).to_contain_text("not_found")
    expect(page.locator("#errors .hint")).not_to_be_empty()
    expect(page.locator("#steps li", has_text="downloads")).to_be_visible()
    expect(page.locator("#total-amount")).to_contain_text(" of ")
    expect(page.locator("#total-arrival")).to_contain_text("all there in")
    expect(page.locator("#total-limit")).to_contain_text("limit in")
    page.keyboard.press("i")
    expect(page.locator("#steps .item", has_text="required.safetensors")).to_be_visible()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#run")).to_be_visible()
    expect(page.locator("#checks")).to_contain_text("Checkpoints: passed")
    expect(page.locator("#checks")).to_contain_text("web: ready")
    expect(page.locator("#log")).to_contain_text("critical.safetensors")
    shoot(page, "run-light")
    fault.bytes_per_s = None

    expect(page.locator("#verdict")).to_contain_text("complete")
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#log")).to_contain_text("PROVISIONING COMPLETE")
    shoot(page, "run-over")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_by_day_and_by_night(
    browser: Browser, server: Server, instance: EmbeddedInstance, files: FileServer, scheme: str
) -> None:
    begin(server, instance, files).bytes_per_s = None
    server.outcome("first")
    page = page_of(browser, server, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    expect(page.locator("#runs .state")).to_have_text("complete")
    assert is_as_wide_as_its_window(page)
    shoot(page, f"list-360-{scheme}")
    page.get_by_role("link", name="first").click()
    expect(page.locator("#log")).to_contain_text("PROVISIONING COMPLETE")
    expect(page.locator("#files li")).to_have_count(3)
    assert is_as_wide_as_its_window(page)
    shoot(page, f"run-360-{scheme}")
    page.set_viewport_size({"width": 1280, "height": 900})
    shoot(page, f"run-1280-{scheme}")


def test_the_log_is_searched_from_the_keyboard(
    browser: Browser, server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    server.post("/api/runs", order(instance, profile_of(files), run_id="first"))
    server.outcome("first")
    page = page_of(browser, server)
    page.evaluate("location.hash = '#/run/first'")
    expect(page.locator("#log")).to_contain_text("PROVISIONING COMPLETE")

    page.keyboard.press("/")
    page.keyboard.type("provisioning comp")

    expect(page.locator("#found")).to_have_text("1 line")
    shoot(page, "log-search")
    expect(page.locator("#log mark")).to_have_text("PROVISIONING COMP")
    page.locator("#log").focus()
    page.keyboard.press("Escape")
    expect(page.locator("#list")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("nowhere")
    expect(page.locator("#runs tr")).to_have_count(0)
    page.locator("#filter").fill("complete 127.0.0.1")
    expect(page.locator("#runs tr")).to_have_count(1)


def test_the_stop_button_asks_once_and_ends_the_run(
    browser: Browser, server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    begin(server, instance, files)
    page = page_of(browser, server)
    page.evaluate("location.hash = '#/run/first'")
    expect(page.locator("#state")).to_have_text("usable")
    page.get_by_role("button", name="Stop", exact=True).click()
    shoot(page, "stop-asks")
    page.get_by_role("button", name="Let it go on").click()
    expect(page.locator("#sure")).to_be_hidden()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Stop it").click()

    expect(page.locator("#state")).to_have_text("cancelled")
    assert server.outcome("first")["verdict"] == "cancelled"


def test_without_the_token_there_is_a_form_for_it_and_nothing_else(browser: Browser, server: Server) -> None:
    page = browser.new_context(viewport={"width": 360, "height": 740}).new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"http://127.0.0.1:{server.port}/")
    assert page.evaluate("getComputedStyle(document.querySelector('input')).display") == "block", (
        "it is styled"
    )
    shoot(page, "login-360")
    page.get_by_label("Token").fill("wrong-token")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Token")).to_have_value("")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")

    expect(page.locator("#none")).to_be_visible()
    assert not [text for text in said if "Content Security Policy" in text], said


def test_the_page_goes_on_by_itself_when_the_server_was_killed(
    browser: Browser, server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    fault = begin(server, instance, files)
    page = page_of(browser, server)
    page.evaluate("location.hash = '#/run/first'")
    expect(page.locator("#state")).to_have_text("usable")
    server.kill()
    expect(page.locator("#contact")).to_contain_text("does not answer")
    fault.bytes_per_s = None
    server.start()

    expect(page.locator("#state")).to_have_text("complete", timeout=20_000)


EVENTS = 40_000


def test_a_flood_of_events_does_not_freeze_the_page(browser: Browser, server: Server) -> None:
    body = {
        "host": "127.0.0.1",
        "port": closed_port(),
        "boot_grace": "1ms",
        "profile_yaml": PROFILE,
        "run_id": "flood",
    }
    server.post("/api/runs", body)
    server.outcome("flood")
    write_flood(server)
    page = page_of(browser, server)
    page.evaluate(
        "() => { window.gap = 0; let last = performance.now();"
        " const beat = () => { const now = performance.now(); window.gap = Math.max(window.gap, now - last); last = now; setTimeout(beat, 0); };"
        " beat(); }"
    )
    page.evaluate("location.hash = '#/run/flood'")
    expect(page.locator("#verdict")).to_contain_text("complete", timeout=25_000)

    assert page.locator("#files li").count() == 40
    assert page.evaluate("window.gap") < 3000, "the page answers while it takes in the flood"
    shoot(page, "flood")


def write_flood(server: Server) -> None:
    """The story of a run with forty files and a thousand progress events of each."""
    common = {"format": 1, "run": "flood"}
    lines = [
        json.dumps(
            {
                **common,
                "ts": stamp(0),
                "seq": 1,
                "event": "run_accepted",
                "from": "collector",
                "host": "h",
                "labels": {},
            }
        )
    ]
    lines.append(json.dumps({**common, "ts": stamp(0), "seq": 1, "event": "run_started", "deadline_s": 600}))
    for number in range(EVENTS):
        event = {
            "event": "download_progress",
            "item": f"models/file{number % 40}.safetensors",
            "level": "required",
        }
        event |= {"bytes": (number // 40) * 1_000_000, "total_bytes": 1_000_000_000, "bytes_per_s": 2_000_000}  # type: ignore[dict-item]
        lines.append(json.dumps({**common, "ts": stamp(number / 100), "seq": number + 2, **event}))
    last = json.loads(server.kept("flood")[-1])
    last |= {"verdict": "complete", "exit_code": 0, "next": "none", "errors": [], "ts": stamp(EVENTS / 100)}
    server.keep("flood", *(line.encode() for line in (*lines, json.dumps(last))), anew=True)


def stamp(seconds: float) -> str:
    return f"2026-01-01T00:{int(seconds // 60):02d}:{seconds % 60:06.3f}Z"


MARKUP = (
    "<img src=http://{host}/img onerror=alert(1)>",
    "<script src=http://{host}/js></script><script>alert(2)</script>",
    "<style>@import url(http://{host}/css)</style><iframe src=http://{host}/frame></iframe>",
    "<a href=javascript:alert(3)>x</a><svg onload=alert(4)>",
    "\u202e\u2066\x1b]8;;http://{host}/osc\x07\x9b31m",
)


def test_events_of_a_stranger_bring_no_element_no_dialog_and_no_request_elsewhere(
    browser: Browser, server: Server, files: FileServer
) -> None:
    body = {"host": "127.0.0.1", "port": closed_port(), "boot_grace": "1ms", "profile_yaml": PROFILE}
    server.post("/api/runs", {**body, "run_id": "stranger"})
    server.outcome("stranger")
    texts = [text.format(host="elsewhere.localhost:9") for text in MARKUP]
    last = server.kept("stranger")[-1]
    server.keep("stranger", *(line.encode() for line in hostile_lines(texts)), last, anew=True)
    page = page_of(browser, server)
    asked: list[str] = []
    dialogs: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.evaluate("location.hash = '#/run/stranger'")
    expect(page.locator("#verdict")).not_to_be_empty()
    expect(page.locator("#files li")).to_have_count(len(texts))

    assert "onerror=alert(1)" in page.locator("#files").inner_text(), "it is shown as text"
    own = server.page.partition("/?")[0]
    assert [url for url in asked if not url.startswith(own + "/")] == []
    assert dialogs == []
    for selector in (
        "img",
        "iframe",
        "svg[onload]",
        "main style",
        "main script",
        "[href^=javascript]",
        "[onerror]",
    ):
        assert page.locator(selector).count() == 0, selector


def hostile_lines(texts: list[str]) -> list[str]:
    """Events whose every word is markup."""
    common = {"format": 1, "run": "stranger", "ts": stamp(0)}
    accepted = {"seq": 1, "event": "run_accepted", "from": "collector", "host": texts[0], "labels": {}}
    lines = [{**common, **accepted}, {**common, "seq": 1, "event": "run_started", "deadline_s": 600}]
    for number, text in enumerate(texts, 2):
        words = {"item": text, "message": text, "hint": text, "class": "not_found", "url": text}
        event = {"event": "download_failed", "level": "required", "retriable": False, **words}
        lines.append({**common, "seq": number, **event})
        lines.append({**common, "seq": number, "event": "warning", "message": text})
    return [json.dumps(line) for line in lines]


def test_the_pools_part_tells_what_runs_took_and_which_hosts_did_badly(
    browser: Browser, server: Server, instance: EmbeddedInstance
) -> None:
    port = closed_port()
    lost = {"host": "127.0.0.1", "port": port, "boot_grace": "1ms", "profile_yaml": PROFILE}
    server.post("/api/runs", {**lost, "run_id": "lost", "instance_id": "i-lost", "labels": {"pool": "b"}})
    server.post(
        "/api/runs", order(instance, PROFILE, run_id="good", instance_id="i-good", labels={"pool": "a"})
    )
    for run in ("lost", "good"):
        server.outcome(run)
    page = page_of(browser, server)
    page.get_by_role("link", name="Pool").click()

    expect(page.locator("#pool-now")).to_contain_text("1 of 2 that ended (50")
    usable = page.locator("#pool-profiles tbody tr", has_text="1 complete")
    expect(usable.locator("td").nth(3)).to_contain_text(" s")
    bad = page.locator("#pool-hosts tbody tr")
    expect(bad).to_have_count(1)
    expect(bad).to_contain_text("i-lost")
    expect(bad).to_contain_text("1 unreachable")
    for width in (360, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert is_as_wide_as_its_window(page), width
        shoot(page, f"pool-{width}")

    page.keyboard.press("Escape")
    page.locator("#filter").fill("pool=b")
    expect(page.locator("#runs tr")).to_have_count(1)
    expect(page.locator("#runs tr")).to_contain_text("lost")
    expect(page.locator("#counts")).to_have_text("1 unreachable")
    page.locator("#filter").fill("host=i-good")
    expect(page.locator("#runs tr")).to_contain_text("good")

    page.evaluate("location.hash = '#/run/nobody'")
    expect(page.locator("#missing")).to_contain_text("knows no run nobody")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
