"""The agent's command line, spoken by the collector and by the agent itself, not by people.

``start`` and ``stop`` read one JSON object on stdin and answer with one JSON line; secrets come only this way.
"""

from __future__ import annotations

import importlib
import sys
from typing import List, Optional

_COMMANDS = {
    "start": "run.start",
    "boot": "commands.boot",
    "keep": "run.keeper",
    "run": "run.run",
    "follow": "tail.server",
    "secrets": "run.late_secrets",
    "receive": "commands.files",
    "send": "commands.files",
    "sources_given": "run.late_sources",
    "status": "commands.query",
    "stop": "commands.query",
    "prune": "commands.query",
    "verify": "commands.query",
    "facts": "commands.query",
    "health": "commands.health",
    "sources": "commands.probe_sources",
    "whoami": "commands.whoami",
    "audit": "commands.audit",
    "capture": "commands.capture",
    "services": "commands.services",
    "supervise": "services.manager",
    "lifetime": "lifetime.meter",
    "lifetime_again": "lifetime.begin",
    "extend": "commands.extend",
}


def main(argv: Optional[List[str]] = None) -> int:
    """Run one subcommand; its module has a function ``<subcommand>_main``."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] not in _COMMANDS:
        print(f"usage: agent {'|'.join(_COMMANDS)}", file=sys.stderr)
        return 2
    if arguments[0] == "start":
        from .host import early_code

        early_code.begin()
    module = importlib.import_module(f"provision_agent.{_COMMANDS[arguments[0]]}")
    return int(getattr(module, f"{arguments[0]}_main")(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main())
