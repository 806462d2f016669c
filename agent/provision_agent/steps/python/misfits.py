"""Which of several requirements do not go with the others, found with few questions. Pure but for the questions."""

from __future__ import annotations

from typing import Callable, List, Optional, Sequence, Tuple, TypeVar

from ...contract.failures import Failure

Line = TypeVar("Line")


def misfits(
    lines: Sequence[Line],
    problem: Callable[[Sequence[Line]], Optional[Failure]],
    *,
    together: Optional[Failure] = None,
) -> List[Tuple[Line, Failure]]:
    """Each of *lines* that does not go with those before it, and why; halves that go are tried no further.

    The last lines with which *problem* found nothing wrong are all the others. No question is asked twice.

    Args:
        problem: Says why some lines do not go together; None: they do. It may raise Failure, which ends this.
        together: What it says of all *lines*, where that is known; None: it is asked.
    """
    kept: List[Line] = []
    found: List[Tuple[Line, Failure]] = []

    def take(some: Sequence[Line], reason: Optional[Failure]) -> None:
        """*reason*: why *some* do not go with what is kept."""
        if reason is None:
            kept.extend(some)
        elif len(some) == 1:
            found.append((some[0], reason))
        else:
            first, rest = some[: len(some) // 2], some[len(some) // 2 :]
            reason_of_first = problem([*kept, *first])
            take(first, reason_of_first)
            # where all of the first ones were kept, that is what was asked already
            take(rest, reason if reason_of_first is None else problem([*kept, *rest]))

    if lines:
        take(lines, together if together is not None else problem(lines))
    return found
