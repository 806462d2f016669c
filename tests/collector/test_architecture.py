"""The walls of the house: two halves, their rooms, and arrows that point one way. docs/ARCHITECTURE.md says them in words."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import provision_agent
import provision_collector
import pytest

AGENT = Path(provision_agent.__file__).parent
COLLECTOR = Path(provision_collector.__file__).parent
MODULES = sorted([*AGENT.rglob("*.py"), *COLLECTOR.rglob("*.py")])

OF_A_RUN = {
    "run.run",
    "run.job_runner",
    "run.ending",
    "run.requirements",
    "run.stages",
    "run.start",
    "run.keeper",
    "run.step_runner",
    "run.service_runner",
}
"""The modules of the agent's `run/` that lead the others; the rest of `run/` is what every step works with."""

SEES = {
    AGENT: {
        "contract": set(),
        "host": {"contract"},
        "run": {"contract", "host"},
        "downloads": {"contract", "host", "run"},
        "files": {"contract", "host", "run"},
        "steps": {"contract", "host", "run", "downloads", "files"},
        "services": {"contract", "host", "run", "steps"},
        "jobs": {"contract", "host", "run", "steps", "services"},
        "lifetime": {"contract", "host", "run", "files", "services", "jobs"},
        "tail": {"contract"},
        "commands": {
            "contract",
            "host",
            "run",
            "downloads",
            "files",
            "steps",
            "services",
            "jobs",
            "lifetime",
        },
    },
    COLLECTOR: {
        "errors": set(),
        "log": set(),
        "distribution": set(),
        "storage": {"errors"},
        "profile": {"errors"},
        "instance": {"errors", "storage"},
        "mirror": {"errors", "storage", "instance"},
        "files": {"errors", "storage", "distribution", "instance", "mirror", "profile"},
        "run": {"errors", "storage", "instance", "mirror", "profile", "files"},
        "collect": {"errors", "storage", "instance", "mirror", "run"},
        "convert": {"errors", "storage", "instance", "profile"},
        "planning": {"errors", "storage", "distribution", "instance", "profile", "files", "run", "convert"},
        "pool": {
            "errors",
            "storage",
            "distribution",
            "instance",
            "mirror",
            "profile",
            "planning",
            "run",
            "files",
        },
        "console": set(),
        "demo": {"errors", "storage"},
    },
}
"""The rooms that each room may see. `cli` and `reference` see all; nobody sees them."""

YET = {
    "tail.server > run.keeper",
    "tail.server > run.workspace",
}
"""Arrows that still point the wrong way; those of `tail.server` are loaded when a run is followed. None may be added."""

HEAVY = {
    "asyncssh",
    "cryptography",
    "httpx",
    "pydantic",
    "rich",
    "sqlalchemy",
    "starlette",
    "structlog",
    "yaml",
}
MAX_LINES, MAX_FUNCTION_LINES, MAX_FILES = 400, 60, 4


class Import(NamedTuple):
    """What a module imports, wherever in it: an absolute name, or one of its own half."""

    name: str
    is_ours: bool
    line: int


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def half_of(path: Path) -> Path:
    return AGENT if path.is_relative_to(AGENT) else COLLECTOR


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(half_of(path)).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(
        Import(name, is_ours, node.lineno)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name, is_ours in imported(path, node)
    )


def imported(path: Path, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, bool]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, False) for alias in node.names)
        return
    package = path.relative_to(half_of(path)).parent.parts
    base = (
        [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        if node.level
        else [node.module]
    )
    for alias in node.names:
        yield ".".join(str(part) for part in (*base, alias.name) if part), bool(node.level)


def room_of(module: str) -> str:
    return module.split(".")[0]


def module_in(half: Path, name: str) -> str:
    """The module that *name* is, or is in."""
    parts = name.split(".")
    while (
        parts and not half.joinpath(*parts).is_dir() and not half.joinpath(*parts).with_suffix(".py").exists()
    ):
        parts.pop()
    return ".".join(parts)


def test_the_agent_imports_itself_and_the_standard_library_only():
    allowed = sys.stdlib_module_names | {"provision_agent"}
    for path in AGENT.rglob("*.py"):
        if path.name == "probe.py":
            continue  # run by the environment's own interpreter, to see what it holds
        assert [
            each for each in imports(path) if not each.is_ours and room_of(each.name) not in allowed
        ] == [], path


def test_the_collector_imports_only_the_contract_of_the_agent():
    for path in COLLECTOR.rglob("*.py"):
        ours = [each.name.split(".") for each in imports(path) if each.name.startswith("provision_agent.")]
        assert {parts[1] for parts in ours} <= {"contract"}, path


@pytest.mark.parametrize("half", SEES, ids=lambda half: half.name)
def test_every_room_sees_only_the_rooms_below_it(half):
    wrong = set()
    for path in half.rglob("*.py"):
        me = name_of(path)
        allowed = SEES[half].get(room_of(me))
        is_leading = half is AGENT and me in OF_A_RUN
        if room_of(me) in ("", "__init__", "__main__", "cli", "reference") or is_leading:
            continue
        assert allowed is not None, f"`{me}` is in no room that is known: say in `SEES` what it may see"
        for each in imports(path):
            found = module_in(half, each.name) if each.is_ours else ""
            is_upward = room_of(found) != room_of(me) and room_of(found) not in allowed
            if found and (is_upward or (half is AGENT and found in OF_A_RUN and room_of(me) != "commands")):
                wrong.add(f"{me} > {found}")

    assert sorted(wrong - YET) == []


@pytest.mark.parametrize("half", SEES, ids=lambda half: half.name)
def test_modules_never_import_each_other_in_a_circle(half):
    """Whichever is imported first; a room counts as imported with each module in it that another room imports."""
    graph: dict[str, set[str]] = {}
    for path in half.rglob("*.py"):
        me = name_of(path)
        for node in tree_of(path).body:
            for name, is_ours in (
                imported(path, node) if isinstance(node, ast.Import | ast.ImportFrom) else ()
            ):
                found = module_in(half, name).split(".") if is_ours else []
                whole = {".".join(found[: at + 1]) for at in range(len(found))}
                graph.setdefault(me, set()).update(
                    each for each in whole if not f"{me}.".startswith(f"{each}.")
                )

    list(graphlib.TopologicalSorter(graph).static_order())


def test_the_contract_imports_nothing_of_ours_not_even_later():
    for path in (AGENT / "contract").rglob("*.py"):
        assert {room_of(each.name) for each in imports(path) if each.is_ours} <= {"contract"}, path


def test_asyncssh_stays_in_its_room():
    users = {path for path in MODULES if any(room_of(each.name) == "asyncssh" for each in imports(path))}

    assert {room_of(name_of(path)) for path in users} == {"instance", "demo"}


@pytest.mark.parametrize("half", SEES, ids=lambda half: half.name)
def test_a_half_is_entered_by_few_files(half):
    files = {path.name for path in half.glob("*.py")} - {"__init__.py", "__main__.py"}

    assert len(files) <= MAX_FILES, sorted(files)


def test_no_module_is_too_long_to_read():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}

    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_function_is_too_long_to_read():
    functions = [
        (f"{name_of(path)}.{node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert [each for each in functions if each[1] > MAX_FUNCTION_LINES] == []


def test_private_names_stay_in_their_room():
    wrong = []
    for path in MODULES:
        others = [
            each
            for each in imports(path)
            if each.name.startswith("provision_")
            or (each.is_ours and room_of(each.name) != room_of(name_of(path)))
        ]
        wrong += [
            f"{path}:{each.line} {each.name}"
            for each in others
            if each.name.rpartition(".")[2].startswith("_")
        ]
        names = {each.name.rpartition(".")[2] for each in others}
        wrong += [
            f"{path}:{node.lineno} {ast.unparse(node)}"
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names
            if node.attr.startswith("_") and not node.attr.startswith("__")
        ]

    assert wrong == []


@pytest.mark.parametrize(
    "what", ["provision_collector.cli", "provision_collector", "provision_collector.errors"]
)
def test_nothing_heavy_is_imported_before_a_command_runs(what):
    code = f"import sys, {what}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20
    )

    assert not HEAVY & {room_of(name) for name in done.stdout.split()}


def test_help_of_a_command_imports_nothing_heavy():
    code = (
        "import sys, importlib; from provision_collector.cli import COMMANDS\n"
        "for name in COMMANDS: importlib.import_module(f'provision_collector.cli.{name}')\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20
    )

    assert not HEAVY & {room_of(name) for name in done.stdout.split()}


UNASKED = {
    "check": (
        ["check", "comfyui"],
        ["asyncssh", "structlog", "provision_agent.contract.messages", "provision_collector.convert"],
    ),
    "plan": (
        ["plan", "--offline", "comfyui"],
        ["asyncssh", "structlog", "provision_agent.contract.messages", "provision_collector.convert"],
    ),
    "status": (["status"], ["asyncssh", "provision_collector.profile"]),
}
"""Commands that ask nobody, and what they begin quickly without."""


def said_and_imported(words, folder, *, ends_well):
    """What a command says on stderr, and then the name of every module that it has imported."""
    code = (
        "import sys, atexit, provision_collector.cli as cli\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"cli.main({words!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=ends_well,
        timeout=60,
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": str(folder)},
    )
    return done.stderr


@pytest.mark.parametrize("name", UNASKED)
def test_a_command_that_asks_nobody_imports_nothing_to_ask_with(name, tmp_path):
    words, needless = UNASKED[name]
    told = said_and_imported(words, tmp_path, ends_well=True)

    assert set(needless).intersection(told.split()) == set()


@pytest.mark.parametrize("words", [["up", "--profile", "p.yaml"], ["collect"]], ids=["up", "collect"])
def test_a_run_and_a_log_of_one_instance_need_no_database(words, tmp_path):
    (tmp_path / "p.yaml").write_text("version: 1\nname: p\nfiles: [{path: a, content: a}]\n")
    where = ["--host", "root@127.0.0.1:9", "--boot-grace", "1ms"]
    if words == ["collect"]:
        where += ["--remote-log", "/x.log", "--output", "x.log"]
    told = said_and_imported([*words, *where], tmp_path, ends_well=False)

    assert "asyncssh" in told.split(), told[:500]
    assert {"sqlite3", "sqlalchemy", "alembic", "psycopg"}.intersection(told.split()) == set()


@pytest.mark.parametrize("half", SEES, ids=lambda half: half.name)
def test_every_room_stands_in_the_architecture_and_has_a_docstring(half):
    page = (Path(__file__).parents[2] / "docs" / "ARCHITECTURE.md").read_text()
    rooms = [path.parent for path in half.glob("*/__init__.py")]

    assert [room.name for room in rooms if f"`{room.name}/`" not in page] == []
    assert [str(path) for path in MODULES if not ast.get_docstring(tree_of(path))] == []


PRINTS = {"cli.output"}
"""The one module that prints; the views of `console/` and the log of `serve` write through a stream that they are given."""
NOT_OF_A_COMMAND = {"reference.__main__", "demo.comfyui"}
"""Programs of their own, whose output no command hands on: a developer's, and a stand-in below a service."""
PRINTING = {
    "print",
    "click.echo",
    "click.secho",
    "traceback.print_exc",
    "traceback.print_exception",
    *(
        f"sys.{stream}.{way}"
        for stream in ("stdout", "stderr")
        for way in ("write", "writelines", "fileno", "buffer.write")
    ),
}


def test_one_module_of_the_collector_prints() -> None:
    found = []
    for path in COLLECTOR.rglob("*.py"):
        module = ".".join(path.relative_to(COLLECTOR).with_suffix("").parts)
        if module in PRINTS | NOT_OF_A_COMMAND:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if ast.unparse(node.func) in PRINTING:
                found.append(f"{module}:{node.lineno}: {ast.unparse(node.func)}")
            if ast.unparse(node.func) == "Console" and not module.startswith("console."):
                found.append(f"{module}:{node.lineno}: a console of its own")
            if module.startswith(("cli.", "console.")):
                found += [
                    f"{module}:{node.lineno}: JSON that is not ASCII"
                    for word in node.keywords
                    if word.arg == "ensure_ascii"
                ]

    assert found == [], "print through cli/output.py"
