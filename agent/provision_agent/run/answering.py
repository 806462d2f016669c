"""One request in, one answer out: how a subcommand reads what it is asked, and says what came of it."""

from __future__ import annotations

import json
import os
import sys
from typing import Callable, Dict, Tuple, Type, TypeVar, Union

from ..contract.failures import Failure
from ..contract.frames import ANSWER_MAGIC
from ..contract.messages import MAX_MESSAGE_BYTES, joined, read_message
from ..contract.parsing import ParseError
from ..contract.version import FORMAT

T = TypeVar("T")
Answer = Union[object, Tuple[object, ...]]
"""A dataclass of `contract`, or several whose fields make one answer."""


def answer(kind: Type[T], work: Callable[[T], Answer]) -> int:
    """Read the request *kind* on stdin and say what *work* makes of it, or why nothing came of it.

    Returns:
        The exit status, 0: the answer says all.
    """
    try:
        request = read_message(kind, sys.stdin.buffer.read(MAX_MESSAGE_BYTES + 1))
        found = work(request)
        say(joined(*found) if isinstance(found, tuple) else joined(found))
    except ParseError as error:
        say(
            _failed(
                Failure(
                    "protocol", f"the instance cannot read what it is asked: {error}", case="other_version"
                )
            )
        )
    except Failure as failure:
        say(_failed(failure))
    return 0


def _failed(failure: Failure) -> Dict[str, object]:
    return dict(failure.as_fields(), state="failed")


def say(fields: Dict[str, object]) -> None:
    """Write one answer line, marked so that what a login shell printed before it can be told apart."""
    sys.stdout.flush()
    line = ANSWER_MAGIC + json.dumps(dict(fields, format=FORMAT), separators=(",", ":")).encode() + b"\n"
    view = memoryview(line)
    while view:
        view = view[os.write(1, view) :]
