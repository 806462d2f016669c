"""How soon the page of `provision serve` is there when its server remembers many runs; in headless Chromium.

    python benchmarks/page.py [--runs 10000] [--rounds 7]

The runs are written through the store's own interface, as a server leaves them that was stopped: 2 of 100 failed, 1 of
100 incomplete, three labels each. Then the real server is started, and each round takes a fresh browser profile. `paint` is
the browser's own entry `first-contentful-paint`; `rows` is when the first page of the list stands in the table; both count
from the start of the navigation. `older` is from the click on the button to 200 rows more, the filters from the last key.
Needs Chromium and `make setup-dev`. The exit status is 1 when the median of `paint` is above 1 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

PROVISION = str(Path(sys.executable).with_name("provision"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "benchmark-token-0123456789"
PAINT_LIMIT_MS = 1000.0
WITHIN_MS = 60_000
PROFILES = ("comfyui", "comfyui-z-image", "comfyui-wan22-t2v", "vllm")


async def fill(folder: Path, count: int) -> None:
    """Write *count* finished runs into the server's state below *folder*."""
    from provision_collector import Instance
    from provision_collector.pool.store.rows import FileCount, Row, Summary
    from provision_collector.pool.store.store import Store, add_row
    from sqlalchemy import Connection

    rng = random.Random(7)
    store = await Store.open(folder / "state" / "provision" / "server")
    now = time.time()

    def row_of(number: int) -> Row:
        drawn = rng.random()
        verdict = "failed" if drawn < 0.02 else "incomplete" if drawn < 0.03 else "complete"
        size = rng.randrange(6_000_000_000, 40_000_000_000)
        usable_s = rng.uniform(40, 200)
        created = now - (count - number) * 30.0
        following = {"failed": "replace_instance", "incomplete": "retry"}.get(verdict, "none")
        summary = Summary(
            state=verdict, verdict=verdict, next=following, contact="connected", files=FileCount(14, 14), bytes=size,
            bytes_left=0, bytes_per_s=0.0, usable_after_s=None if verdict == "failed" else usable_s,
            duration_s=usable_s * 2, seconds_left=None, errors=1 if verdict != "complete" else 0,
        )  # fmt: skip
        port = 10_000 + number % 50_000
        return Row(
            run=f"pool-{number:05d}", request_hash="x", plan={}, profile=rng.choice(PROFILES),
            instance=Instance(f"203.0.113.{number % 250}", port=port, user="root", instance_id=f"i-{number}"),
            labels={"pool": "abcdefgh"[number % 8], "region": f"r{number % 5}", "customer": f"c{number % 97}"},
            secret_names=[], verdict=verdict, state=verdict, summary=summary, created_unix=created,
            ended_unix=created + usable_s * 2,
        )  # fmt: skip

    for first in range(0, count, 500):
        rows = [row_of(number) for number in range(first, min(first + 500, count))]

        def add(connection: Connection, rows: list[Row] = rows) -> None:
            for row in rows:
                add_row(connection, row)

        await store.database.change(add)
    await store.close()


def measure(browser: Browser, page_url: str, count: int) -> dict[str, float]:
    """One visit by a browser that was never here; times in milliseconds."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WITHIN_MS)
    page.goto(page_url)
    page.wait_for_selector("#runs tr")
    page.close()
    page = context.new_page()  # the way in by the link is two more pages; this is the list alone
    page.set_default_timeout(WITHIN_MS)
    page.goto(page_url.partition("?")[0])
    page.wait_for_selector("#runs tr")
    rows = page.evaluate("performance.now()")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    shown = len(page.query_selector_all("#runs tr"))
    found = {"paint": paint, "rows": rows}

    def took(do: str, until: str) -> float:
        return float(
            page.evaluate(
                f"""async () => {{ const begun = performance.now(); {do};
                while (!({until})) await new Promise(requestAnimationFrame);
                return performance.now() - begun; }}"""
            )
        )

    found["older"] = took(
        "document.getElementById('more').click()",
        f"document.querySelectorAll('#runs tr').length === {2 * shown}",
    )
    typed = "const box = document.getElementById('filter'); box.value = '{}'; box.dispatchEvent(new Event('input'))"
    texts = "[...document.querySelectorAll('#runs tr .state')].map((each) => each.textContent)"
    only = f"{texts}.length && {texts}.every((word) => word === 'failed')"
    found["filter state=failed"] = took(typed.format("state=failed"), only)
    labels = "[...document.querySelectorAll('#runs td:nth-child(2) small')].map((each) => each.textContent)"
    found["filter customer=c42"] = took(
        typed.format("customer=c42"),
        f"{labels}.length && {labels}.every((text) => text.includes('customer=c42'))",
    )
    found["filter host=i-7"] = took(
        typed.format("host=i-7"), "document.querySelectorAll('#runs tr').length === 1"
    )
    told = page.text_content("#counts") or ""
    assert told, "the counts of the filter"
    context.close()
    assert shown == min(count, 200), shown
    return found


def main() -> None:
    """Fill, serve, measure, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("there is no Chromium on this machine")
    with tempfile.TemporaryDirectory(prefix="page") as name:
        folder = Path(name)
        environment = {**os.environ, "XDG_STATE_HOME": f"{name}/state", "PROVISION_TOKEN": TOKEN}
        begun = time.monotonic()
        asyncio.run(fill(folder, arguments.runs))
        print(f"{arguments.runs} runs written in {time.monotonic() - begun:.1f} s", file=sys.stderr)
        server = subprocess.Popen(
            [PROVISION, "serve", "--listen", "127.0.0.1:0", "--json", "--keep", str(2 * arguments.runs)],
            cwd=folder, env=environment, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            told = json.loads(server.stdout.readline())
            answers = [_answer_ms(told["url"]) for _ in range(arguments.rounds)]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
                )
                rounds = [measure(browser, told["page"], arguments.runs) for _ in range(arguments.rounds)]
                browser.close()
        finally:
            server.terminate()
            server.wait(30)
    print(f"{arguments.runs} runs, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}\n")
    print("| | median ms | worst ms |\n|---|---:|---:|")
    _row("`GET /api/runs?limit=200`", answers)
    for what in rounds[0]:
        _row(what, [each[what] for each in rounds])
    sys.exit(1 if statistics.median(each["paint"] for each in rounds) > PAINT_LIMIT_MS else 0)


def _row(what: str, times: list[float]) -> None:
    print(f"| {what} | {statistics.median(times):.0f} | {max(times):.0f} |")


def _answer_ms(url: str) -> float:
    request = urllib.request.Request(
        f"{url}/api/runs?limit=200", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    begun = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert len(json.load(answer)["runs"]) > 0
    return (time.perf_counter() - begun) * 1000


if __name__ == "__main__":
    main()
