"""Three views of the same events: a live picture, plain lines, JSON Lines; and silence.

stdout is data, stderr is talk. The live view draws on stderr; where stdout is not a terminal, it gets the plain
lines at the same time, so that ``provision up > run.txt`` has both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TextIO

from .text import harmless, print_anything

if TYPE_CHECKING:
    from .view import View

Mode = Literal["live", "plain", "json", "quiet"]

__all__ = ["Mode", "choose_mode", "harmless", "view_for"]


def choose_mode(*, json: bool, quiet: bool, stderr_is_tty: bool, environ: Mapping[str, str]) -> Mode:
    """Which view suits the flags and the terminal: live only where a cursor can move and colour is welcome.

    Args:
        json: `--json` was given; it goes before *quiet*.
        quiet: `--quiet` was given.
        stderr_is_tty: The live view has a terminal to draw on.
        environ: `TERM` and `NO_COLOR` are looked at.
    """
    if json:
        return "json"
    if quiet:
        return "quiet"
    is_able = stderr_is_tty and environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    return "live" if is_able and not environ.get("NO_COLOR") else "plain"


def view_for(mode: Mode, *, host: str, stdout: TextIO, stderr: TextIO) -> View:
    """The view for *mode*; a context manager, to be told every event and then the outcome.

    Args:
        mode: As `choose_mode` says.
        host: How people call the instance.
        stdout: Gets data: JSON Lines, or plain lines.
        stderr: Gets the live picture, and what went wrong in a quiet run.
    """
    from .json_lines import JsonView, QuietView
    from .plain import PlainView
    from .progress import Progress
    from .view import Views

    print_anything(stdout)
    print_anything(stderr)
    if mode == "json":
        return JsonView(stdout)
    if mode == "quiet":
        return QuietView(stderr)
    if mode == "plain":
        return PlainView(Progress(host), stdout)
    from .live import LiveView
    from .picture import terminal

    live = LiveView(Progress(host), terminal(stderr))
    return live if stdout.isatty() else Views(live, PlainView(Progress(host), stdout))
