"""The process that reads large profiles for a server: a line of JSON in, a line of JSON out, until its stdin ends."""

from __future__ import annotations

import os
import queue
import resource
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path

from provision_agent.contract.parsing import to_json

from ...errors import ProfileError, ProvisionError
from .answers import adapter_of
from .orders import planned
from .reading import MOST_PROBLEMS, READ_WITHIN_S, ReadAnswer, Reading

MEMORY_BYTES = 2 << 30
NICENESS = 5


def main() -> None:
    """Answer until the server ends or lets go of this process."""
    with suppress(OSError, ValueError):
        os.nice(NICENESS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    while True:
        line = lines.get()
        signal.setitimer(signal.ITIMER_PROF, READ_WITHIN_S)  # ends this process
        answer = _answer(line)
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(adapter_of(ReadAnswer).dump_json(answer) + b"\n")
        out.flush()


def _listen(lines: queue.SimpleQueue[bytes]) -> None:
    """Pass the lines on; at the end, whatever is being read is of no use to anybody."""
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


def _answer(line: bytes) -> ReadAnswer:
    try:
        asked = adapter_of(Reading).validate_json(line)
        profiles = Path(asked.profiles) if asked.profiles is not None else None
        found = planned(asked.request, profiles=profiles, scratch=Path(asked.scratch))
        return ReadAnswer(
            plan=found.plan.to_json(), buckets=dict(to_json(found.buckets)), warnings=found.warnings
        )
    except ProfileError as error:
        return ReadAnswer(problems=_first(error.problems))
    except ProvisionError as error:
        return ReadAnswer(message=str(error), hint=error.hint)
    except MemoryError:
        os._exit(1)  # nothing can be said any more
    except Exception:
        return ReadAnswer(bug=traceback.format_exc()[-2000:])


def _first(problems: list[str]) -> tuple[str, ...]:
    if len(problems) <= MOST_PROBLEMS:
        return tuple(problems)
    return (*problems[:MOST_PROBLEMS], f"and {len(problems) - MOST_PROBLEMS} more")


if __name__ == "__main__":
    main()
