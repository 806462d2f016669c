"""The arrows of the house: the agent stands alone, and the collector sees only its pure modules."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import provision_agent
import provision_collector

AGENT = Path(provision_agent.__file__).parent
COLLECTOR = Path(provision_collector.__file__).parent
PURE = {"contract"}
HEAVY = {"asyncssh", "httpx", "pydantic", "structlog", "yaml", "rich", "cryptography"}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module of a file, absolute ones by name, with the level of relative ones."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            base = node.module or ""
            yield from ((f"{base}.{name}" if base else name, node.level) for name in names)


def test_the_agent_imports_itself_and_the_standard_library_only() -> None:
    for path in AGENT.rglob("*.py"):
        if path.name == "probe.py":
            continue  # run by the environment's own interpreter, to see what it holds
        for name, level in imports(path):
            assert level or name.split(".")[0] in sys.stdlib_module_names | {"provision_agent"}, (
                f"{path.name}: {name}"
            )


def test_the_collector_imports_only_the_agents_pure_modules() -> None:
    for path in COLLECTOR.rglob("*.py"):
        for name, level in imports(path):
            parts = name.split(".")
            if not level and parts[0] == "provision_agent" and len(parts) > 1:
                assert parts[1] in PURE, f"{path.name}: {name}"


def test_the_agents_pure_modules_import_only_each_other() -> None:
    for name in PURE:
        for path in (AGENT / name).glob("*.py"):
            assert all(level <= 1 for _, level in imports(path)), path.name


def test_asyncssh_stays_in_its_room() -> None:
    rooms = {"instance", "demo"}
    for path in COLLECTOR.rglob("*.py"):
        if path.relative_to(COLLECTOR).parts[0] not in rooms:
            assert "asyncssh" not in {name.split(".")[0] for name, level in imports(path) if not level}, path


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    import subprocess

    code = "import sys, provision_collector.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20
    )
    assert not HEAVY & {name.split(".")[0] for name in done.stdout.split()}
