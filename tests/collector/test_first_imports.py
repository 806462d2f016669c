"""Commands import most of their modules when they need them: each such module can be the first of ours that is imported."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import provision_collector

PROGRAM = """
import gc, importlib, os, pkgutil, sys
import alembic, asyncssh, click, httpx, pydantic.types, rich.console, sqlalchemy, starlette, structlog, uvicorn, yaml
import provision_agent  # it imports nothing of the collector
for each in pkgutil.walk_packages(provision_agent.__path__, "provision_agent."):
    if not each.name.endswith("__main__"):
        importlib.import_module(each.name)
broken = []
gc.freeze()
for name in sys.argv[1:]:
    pid = os.fork()  # in which nothing of the collector is there yet
    if pid == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(f"{name}: {error!r}", flush=True)
            os._exit(1)
        os._exit(0)
    broken += [name] if os.waitpid(pid, 0)[1] else []
sys.exit(bool(broken))
"""


def _modules() -> dict[str, Path]:
    found = {"provision_collector": Path(str(provision_collector.__file__))}
    for each in pkgutil.walk_packages(provision_collector.__path__, "provision_collector."):
        if not each.name.endswith("__main__"):
            spec = importlib.util.find_spec(each.name)
            assert spec is not None
            found[each.name] = Path(str(spec.origin))
    return found


def _imported_late(name: str, file: Path) -> set[str]:
    """What the functions of a module import from beside it."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for each in ast.walk(function):
                if isinstance(each, ast.ImportFrom) and each.level:
                    base = importlib.util.resolve_name("." * each.level + (each.module or ""), package)
                    found |= {base, *(f"{base}.{alias.name}" for alias in each.names)}
    return found


def test_every_module_that_is_imported_late_and_every_command_can_be_the_first() -> None:
    modules = _modules()
    late = set().union(*(_imported_late(name, file) for name, file in modules.items()))
    commands = {name for name in modules if name.startswith("provision_collector.cli.")}
    first = sorted((late & modules.keys()) | commands)
    assert len(first) > 100

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *first], capture_output=True, text=True, timeout=100, check=False
    )

    assert (done.returncode, done.stdout) == (0, ""), done.stderr
