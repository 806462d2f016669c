"""The account of a run, kept by many threads at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from provision_agent.contract.failures import Failure
from provision_agent.run.tally import Tally

ROUNDS = 1000
ITEMS = 100


@pytest.fixture
def nervous_threads() -> Iterator[None]:
    """Threads take turns after every few instructions, as they do by bad luck on a busy machine."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def silent(event: str, **fields: Any) -> None:
    pass


def test_a_tally_is_read_while_others_change_it(nervous_threads: None) -> None:
    tally, broken, is_over = Tally(silent), [], threading.Event()
    lost = Failure("missing", "it is not there")

    def change(name: str) -> None:
        items = [f"{name}-{number}" for number in range(ITEMS)]
        for _ in range(ROUNDS // 10):
            for item in items:
                tally.fail("checks", item, "required", lost, is_reported=True)
                tally.skip("checks", item)
            for item in items:
                tally.succeed("checks", item)

    def read(question: Callable[[], object]) -> None:
        try:
            while not is_over.is_set():
                tally.start("checks")
                question()
        except Exception as error:
            broken.append(repr(error))

    questions: list[Callable[[], object]] = [
        lambda: tally.has_failed("critical"),
        lambda: tally.missing_checks("critical"),
        lambda: tally.verdict(has_critical=True),
        lambda: tally.finish("checks"),
    ]
    writers = [threading.Thread(target=change, args=(f"w{number}",), daemon=True) for number in range(3)]
    readers = [threading.Thread(target=read, args=(question,), daemon=True) for question in questions]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join(20)
    is_over.set()
    for thread in readers:
        thread.join(20)

    assert broken == []
    assert tally.verdict(has_critical=True) == "complete"


def test_the_counts_of_a_finished_step_are_those_of_one_moment(nervous_threads: None) -> None:
    told: list[dict[str, Any]] = []
    tally = Tally(lambda event, **fields: told.append(dict(fields, event=event)))
    lost = Failure("missing", "it is not there")
    is_over = threading.Event()
    tally.succeed("files", "a")

    def flip() -> None:
        while not is_over.is_set():
            tally.fail("files", "a", "required", lost, is_reported=True)
            tally.succeed("files", "a")

    flipping = threading.Thread(target=flip, daemon=True)
    flipping.start()
    try:
        for _ in range(ROUNDS):
            tally.start("files")
            tally.finish("files")
    finally:
        is_over.set()
        flipping.join(20)

    counted = [fields["ok"] + fields["failed"] for fields in told if fields["event"] == "step_finished"]
    assert counted == [1] * ROUNDS
