"""Of lines that do not all go together, the ones to leave out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from provision_agent.contract.failures import Failure
from provision_agent.steps.python.misfits import misfits

LINES = tuple("abcdefg")


@pytest.mark.parametrize("is_known", [False, True])
def test_the_first_lines_that_go_together_stay_and_no_question_is_asked_twice(is_known: bool) -> None:
    """For every set of bad lines, and for a pair of which only one can be had."""
    for size in range(1, 4):
        for bad in itertools.combinations(LINES, size):
            asked: list[tuple[str, ...]] = []

            def why(some: tuple[str, ...], bad: tuple[str, ...] = bad) -> Failure | None:
                is_wrong = set(bad).intersection(some) or {"a", "f"} <= set(some)
                return Failure("conflict", " ".join(some)) if is_wrong else None

            def problem(some: Sequence[str], asked: list[tuple[str, ...]] = asked) -> Failure | None:
                asked.append(tuple(some))
                return why(asked[-1])

            found = misfits(LINES, problem, together=why(LINES) if is_known else None)

            wanted = [line for line in LINES if line in bad or (line == "f" and "a" not in bad)]
            left = tuple(line for line in LINES if line not in wanted)
            assert [line for line, _ in found] == wanted
            assert len(set(asked)) == len(asked)
            assert is_known is (LINES not in asked)
            assert [some for some in asked if why(some) is None][-1:] in ([left], [])
            assert all(line in reason.message for line, reason in found)
