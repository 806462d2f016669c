"""Questions that only another interpreter can answer, asked in a child of it: `ask` is this side, `main` the other.

Imports nothing but the standard library. The answer is JSON on standard output, in pieces that the kernel never tears
apart, so that chatter of imported modules between them does no harm.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Callable, Dict, Iterator, List, Optional, Type, TypeVar

if TYPE_CHECKING:
    import ctypes
    from importlib import metadata

    from .answers import Answer

    A = TypeVar("A", bound=Answer)

MAX_ANSWER_BYTES = 32 << 20
MARK = "@provision-answer "
_MAX_SAID_CHARS = 4000
_PIECE = 3000  # with the mark below PIPE_BUF: one write, never interleaved
_RECORDERS = ("pip", "uv")


def ask(
    python: str,
    kind: Type[A],
    *arguments: str,
    timeout_s: float,
    cancelled: Optional[threading.Event] = None,
    environment: Optional[Dict[str, str]] = None,
) -> A:
    """Put one of `QUESTIONS` to the interpreter *python*.

    Args:
        kind: One of `answers`; it names its question.
        arguments: Of the question.
        environment: Added to the child's.

    Raises:
        Failure: `timed_out`; `command` when the interpreter cannot be started, died (with its last words), or lies.
    """
    from ..contract import parsing
    from ..contract.failures import Failure
    from . import process
    from .detach import agent_argv

    pieces: List[str] = []

    def keep(line: str) -> None:
        if line.startswith(MARK):
            pieces.append(line[len(MARK) :])

    asks = "from provision_agent.host.probe import main; main(sys.argv[1:])"
    done = process.run(
        agent_argv(kind.question, *arguments, python=python, main=asks, flags=("-I",)),
        timeout_s=timeout_s,
        environment=process.child_environment({"PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}),
        on_line=keep,
        cancelled=cancelled,
    )
    try:
        answer = "".join(str(parsing.read_json(piece, max_bytes=MAX_ANSWER_BYTES)) for piece in pieces)
        return parsing.parse(kind, parsing.read_json(answer, max_bytes=MAX_ANSWER_BYTES), "the answer")
    except parsing.NotJsonError:
        last = [line for line in done.tail if not line.startswith(MARK)][-3:]
        how = f"was ended by signal {-done.status}" if done.status < 0 else f"ended with {done.status}"
        told = f"{how} when asked for {kind.question}; last output: {' | '.join(last)}"
        raise Failure("command", f"`{python}` {told}") from None
    except parsing.ParseError as error:
        raise Failure("command", f"`{python}` was asked for {kind.question}: {error}") from None


def main(argv: List[str]) -> None:
    """Answer the question ``argv[0]`` with the arguments that follow it, and end the process at once."""
    text = json.dumps(QUESTIONS[argv[0]](argv[1:]), ensure_ascii=False)
    answer = text.encode("utf-8", "replace").decode()  # a file's name may be no text
    sys.stdout.flush()
    for start in range(0, len(answer), _PIECE):
        piece = json.dumps(answer[start : start + _PIECE])
        os.write(1, f"\n{MARK}{piece}\n".encode())
    sys.stderr.flush()
    os._exit(0)  # a module that was imported may hang in its exit handlers


def interpreter() -> Dict[str, object]:
    """What this interpreter is: version, prefix, where packages go, whether it has pip."""
    import importlib.util

    return {
        "version": ".".join(map(str, sys.version_info[:3])),
        "prefix": sys.prefix,
        "is_venv": sys.prefix != sys.base_prefix,
        "site_packages": _own_folders(),
        "has_pip": importlib.util.find_spec("pip") is not None,
    }


def _own_folders() -> List[str]:
    """The folders into which this interpreter installs."""
    import sysconfig

    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def installed() -> Dict[str, object]:
    """``versions``: that of every distribution by its normalised name."""
    from importlib import metadata

    versions: Dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] if distribution.metadata is not None else None
        if name and distribution.version:
            versions.setdefault(normalised(name), distribution.version)
    return {"versions": versions}


def damage(*names: str) -> Dict[str, object]:
    """``harmed``: the first few files of *names* that are ``missing``, or ``changed``: not as RECORD says.

    By their size, and whether their owner may read and run them; with ``--bytes`` as the first name by their hash, too.
    Without a name of a distribution, of all that are there, as far as anything is wrong with them.
    """
    reads_bytes = names[:1] == ("--bytes",)
    wanted = names[1:] if reads_bytes else names
    found: Dict[str, Dict[str, List[str]]] = {}
    for name, distribution in _distributions(wanted):
        record = distribution.read_text("RECORD")  # not `files`: since 3.12 it leaves out what is missing
        if (
            record is None
            and not wanted
            and (distribution.read_text("INSTALLER") or "").strip() not in _RECORDERS
        ):
            continue  # other tools install without one
        harm = _harm(record or "", str(distribution.locate_file("")), reads_bytes=reads_bytes)
        found[name] = dict(harm, missing=([] if record else ["RECORD"]) + harm["missing"])
    if not wanted:
        _forgive_shared(found, reads_bytes=reads_bytes)
    few = {
        name: {kind: files if kind == "dangling" else files[:5] for kind, files in kinds.items()}
        for name, kinds in found.items()
    }
    return {"harmed": {name: kinds for name, kinds in few.items() if wanted or any(kinds.values())}}


def _forgive_shared(found: Dict[str, Dict[str, List[str]]], *, reads_bytes: bool) -> None:
    """Take files out of *found* that another distribution brings, too, and that are as that one says."""
    import csv

    changed = {file for kinds in found.values() for file in kinds["changed"]}
    if not changed:
        return
    as_told = set()
    for _, distribution in _distributions(()):
        base = str(distribution.locate_file(""))
        for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            if row and row[0] in changed and not any(_harm_of(row, base, reads_bytes=reads_bytes)):
                as_told.add(row[0])
    for kinds in found.values():
        kinds["changed"] = [file for file in kinds["changed"] if file not in as_told]


def _distributions(names: "tuple[str, ...]") -> "Iterator[tuple[str, metadata.Distribution]]":
    """Those of *names* that are installed; without a name, all in the interpreter's own folders, by normalised name."""
    from importlib import metadata

    for name in names:
        try:
            yield name, metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
    for distribution in () if names else metadata.distributions(path=_own_folders()):
        found = distribution.metadata["Name"] if distribution.metadata is not None else None
        if found:
            yield normalised(found), distribution


def _harm(record: str, base: str, *, reads_bytes: bool) -> Dict[str, List[str]]:
    """Which files of a RECORD below the folder *base* are missing, and which are not what it says."""
    import csv

    found: Dict[str, List[str]] = {"missing": [], "changed": [], "dangling": []}
    for row in csv.reader(record.splitlines()):
        if not row or row[0].endswith(".pyc"):
            continue
        is_missing, is_changed = _harm_of(row, base, reads_bytes=reads_bytes)
        if is_missing:
            found["missing"].append(row[0])
            path = os.path.join(base, row[0])
            if os.path.islink(path):
                found["dangling"].append(path)
        elif is_changed:
            found["changed"].append(row[0])
    return found


def _harm_of(row: List[str], base: str, *, reads_bytes: bool) -> "tuple[bool, bool]":
    """Whether the file of a *row* of a RECORD is missing, and whether it is not as the row says."""
    import stat

    path = os.path.join(base, row[0])
    try:
        status = os.stat(path)
    except OSError:
        return True, False
    is_program = row[0].startswith("../") and os.path.basename(os.path.dirname(path)) == "bin"
    needed = stat.S_IRUSR | (stat.S_IXUSR if is_program else 0)
    is_other = bool(row[2:]) and row[2] not in ("", str(status.st_size))
    is_unfit = status.st_mode & needed != needed
    return False, is_other or is_unfit or (reads_bytes and not _has_hash(path, row[1:2]))


def _has_hash(path: str, told: List[str]) -> bool:
    """Does the file at *path* hold what was *told* of it, as ``sha256=…`` without padding? True if nothing was."""
    import base64
    import hashlib

    kind, _, wanted = (told or [""])[0].partition("=")
    if not wanted or kind not in hashlib.algorithms_guaranteed:
        return True
    digest = hashlib.new(kind)
    try:
        with open(path, "rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
    except OSError:
        return False
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode() == wanted


def imports(*modules: str) -> Dict[str, object]:
    """Import each of *modules*; ``reasons``: why each of them cannot be imported, empty for those that can."""
    import importlib

    reasons: Dict[str, str] = {}
    for module in modules:
        print(f"importing {module}", flush=True)  # the last words, should the interpreter die of it
        try:
            importlib.import_module(module)
            reasons[module] = ""
        except BaseException as error:  # whatever a foreign module raises, SystemExit too, is the answer
            reasons[module] = _said(error)
    return {"reasons": reasons}


def nodes(application: str, folders: str, *arguments: str) -> Dict[str, object]:
    """Import the packages in *folders*, a JSON list, as the ComfyUI in *application*, started with *arguments*, does.

    That is one after the other, each by its path, from ComfyUI's folder; after ComfyUI was told to read its arguments,
    which it otherwise does not; and after its own `utils`, since the folder ``comfy``, which comes first later on, has
    another module of that name.

    Returns:
        ``imports``, by folder: ``error``, empty when it imports; ``missing``, the module that was not found, or None;
        ``is_own``, whether that would be a part of the package itself.
    """
    sys.path.insert(0, application)
    os.chdir(application)
    sys.argv[:] = ["main.py", *arguments]  # nodes and ComfyUI read their arguments when they are imported
    _prepare()
    sys.path.insert(0, os.path.join(application, "comfy"))
    return {"imports": {folder: _node(folder) for folder in json.loads(folders)}}


def _node(folder: str) -> Dict[str, object]:
    import importlib.util

    name = folder.replace(".", "_x_")
    print(f"importing {folder}", flush=True)  # the last words, should the interpreter die of it
    try:
        spec = importlib.util.spec_from_file_location(name, os.path.join(folder, "__init__.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except BaseException as error:  # whatever a foreign module raises, SystemExit too, is the answer
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        is_inside = missing is not None and missing.startswith(f"{name}.")
        own_name = missing[len(name) :] if is_inside and missing is not None else missing
        is_own = is_inside or (missing is not None and _is_below(missing, folder))
        return {"error": _said(error), "missing": own_name, "is_own": is_own}
    return {"error": "", "missing": None, "is_own": False}


def _is_below(module: str, folder: str) -> bool:
    """Would *module* be a part of a package that was imported from below *folder*, which nodes add to the path?"""
    package = sys.modules.get(module.partition(".")[0])
    inside = os.path.realpath(folder) + os.sep
    return any(
        os.path.realpath(str(each)).startswith(inside) for each in getattr(package, "__path__", None) or ()
    )


def _prepare() -> None:
    """What ComfyUI does before it imports a node, as far as this version of it has that."""
    import importlib

    for module, function in (("comfy.options", "enable_args_parsing"), ("utils.extra_config", "")):
        try:
            found = importlib.import_module(module)
            if function:
                getattr(found, function)()
        except BaseException as error:  # whatever it raises, the node's own import tells
            print(f"cannot import {module}: {_said(error)}", flush=True)


def torch() -> Dict[str, object]:
    """Import torch, multiply two matrices on the GPU if it sees one, else on the CPU.

    Returns:
        ``version``, ``cuda`` (None for a CPU build), ``is_available``, ``ran_on`` (``cuda``, ``cpu`` or
        None) and ``error``, empty when all went well.
    """
    answer: Dict[str, object] = dict.fromkeys(("version", "cuda", "ran_on"))
    answer.update(is_available=False, error="")
    try:
        import torch as module  # type: ignore[import-not-found,unused-ignore]

        answer["version"] = str(module.__version__)
        answer["cuda"] = module.version.cuda
        answer["is_available"] = bool(module.cuda.is_available())
        device = "cuda" if answer["is_available"] else "cpu"
        ones = module.ones((64, 64), device=device)
        product = float((ones @ ones)[0][0])
        if product != 64.0:
            raise ArithmeticError(f"a product of ones is {product}, not 64")
        answer["ran_on"] = device
    except BaseException as error:
        answer["error"] = _said(error)
    return answer


def gpus() -> Dict[str, object]:
    """What the NVIDIA driver's own library says of its cards.

    Raises:
        OSError: there is no such library, or it does not start.
    """
    import ctypes

    cuda = ctypes.CDLL("libcuda.so.1")
    status = cuda.cuInit(0)
    if status != 0:
        raise OSError(f"cuInit says {status}")
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    found = [_gpu(cuda, index) for index in range(count.value)]
    return {"cuda": f"{version.value // 1000}.{version.value % 1000 // 10}", "gpus": found}


def _gpu(cuda: ctypes.CDLL, index: int) -> Dict[str, object]:
    import ctypes

    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, 128, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # COMPUTE_CAPABILITY_MAJOR, then MINOR
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return {
        "name": name.value.decode("utf-8", "replace"),
        "compute_capability": f"{major.value}.{minor.value}",
        "memory_bytes": int(memory.value),
    }


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_SAID_CHARS]


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    import re

    return re.sub(r"[-_.]+", "-", name).lower()


QUESTIONS: Dict[str, Callable[[List[str]], object]] = {
    "interpreter": lambda _: interpreter(),
    "installed": lambda _: installed(),
    "damage": lambda names: damage(*names),
    "inventory": lambda _: {**installed(), **damage()},
    "imports": lambda modules: imports(*modules),
    "nodes": lambda words: nodes(*words),
    "torch": lambda _: torch(),
    "gpus": lambda _: gpus(),
}
"""Each takes the arguments that follow its name."""
