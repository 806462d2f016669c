"""The generated documents: docs/*.md from the commands and the registries, so that they say what the code does.

`python -m provision_collector.reference DIRECTORY` (`make docs`) writes them; a test compares them with what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import commands, events, troubleshooting

DOCUMENTS: Mapping[str, Callable[[], str]] = {
    "COMMANDS.md": commands.document,
    "EVENTS.md": events.document,
    "TROUBLESHOOTING.md": troubleshooting.document,
}
"""Every generated document: its file's name and what makes its text."""
