"""What this instance is: GPUs, driver, memory, disks, pythons, init system.

Never raises and never waits long: a probe that hangs or fails leaves its fact out (None or empty) and costs at
most `PROBE_S`; all of them run side by side. GPU probes run in a child, because a broken driver can crash or hang
whoever loads it.
"""

from __future__ import annotations

import getpass
import glob
import os
import re
import shutil
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, List, Optional, Tuple, TypeVar

from ..contract.failures import Failure
from ..contract.parsing import to_json
from . import answers, environments, probe, process, sockets
from .folders import nearest_folder
from .init_system import systemd_answers

T = TypeVar("T")
_NO_GPUS: Dict[str, object] = {"gpus": [], "driver": None, "cuda": None}

PROBE_S = 10.0
_SMI_FIELDS = "name,compute_cap,memory.total,driver_version"
_LINES_MOST, _LINE_CHARS, _NAME_CHARS = 1000, 4000, 128
_CARDS_MOST = 64
_MEMORY_MOST = 4 << 40
"""No card has more memory than this."""


def find_facts(workspace: str) -> Dict[str, object]:
    """Look at the instance.

    Args:
        workspace: Its disk is one of `disks`, its ``venv`` one of `venvs`; it need not exist yet.

    Returns:
        JSON values: ``gpus`` (``name``, ``compute_capability``, ``memory_bytes``), ``driver``, ``cuda`` (the newest
        that the driver runs), ``memory_bytes``, ``disks`` (``path``, ``total_bytes``, ``free_bytes``), ``cpus``,
        ``pythons`` (``path``, ``version``), ``init`` (systemd | supervisor | none), ``user``, ``is_root``,
        ``hostname``, ``venvs`` (see `environments.found`), ``listening`` (``port``, ``process``), ``git``, ``uv``,
        ``ffmpeg``.
    """
    probes: Dict[str, Tuple[Callable[[], object], object]] = {
        "disks": (lambda: _disks(workspace), []),
        "memory_bytes": (_memory_bytes, None),
        "cpus": (_cpus, 1),
        "pythons": (_pythons, []),
        "init": (_init, "none"),
        "user": (getpass.getuser, None),
        "is_root": (lambda: os.geteuid() == 0, False),
        "hostname": (socket.gethostname, None),
        "venvs": (lambda: environments.found(workspace), []),
        "listening": (_listening, []),
        "git": (lambda: shutil.which("git"), None),
        "uv": (lambda: shutil.which("uv"), None),
        "ffmpeg": (lambda: shutil.which("ffmpeg"), None),
    }
    with ThreadPoolExecutor(max_workers=4) as pool:
        gpus = pool.submit(_guarded, _gpus, _NO_GPUS)
        others = {name: pool.submit(_guarded, ask, default) for name, (ask, default) in probes.items()}
        return dict(gpus.result(), **{name: answer.result() for name, answer in others.items()})


def _guarded(ask: Callable[[], T], default: T) -> T:
    try:
        return ask()
    except (Failure, OSError, ValueError, LookupError, ImportError, ArithmeticError):
        return default


def _gpus() -> Dict[str, object]:
    with ThreadPoolExecutor(max_workers=2) as pool:  # one may hang, and the other know
        asked = pool.submit(_guarded, _ask_smi, _NO_GPUS)
        library = _guarded(_ask_library, _NO_GPUS)
        smi = asked.result()
    return {
        "gpus": library["gpus"] or smi["gpus"],
        "driver": smi["driver"] or _guarded(_kernel_driver, None),
        "cuda": library["cuda"] or smi["cuda"],
    }


def _ask_library() -> Dict[str, object]:
    found: Dict[str, object] = to_json(probe.ask(sys.executable, answers.Gpus, timeout_s=PROBE_S))
    return found


def _ask_smi() -> Dict[str, object]:
    if shutil.which("nvidia-smi") is None:
        raise LookupError("no nvidia-smi")
    rows = _lines(["nvidia-smi", f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader,nounits"])
    cells = [[cell.strip() for cell in row.split(",")] for row in rows if row.count(",") == 3]
    known = [
        (name, capability, memory, driver) for name, capability, memory, driver in cells if _is_card(name)
    ]
    gpus = [
        {
            "name": name[:_NAME_CHARS],
            "compute_capability": _matching(r"[0-9]{1,2}\.[0-9]", capability),
            "memory_bytes": _memory_of(memory),
        }
        for name, capability, memory, _ in known[:_CARDS_MOST]
    ]
    banner = " ".join(_lines(["nvidia-smi"]))
    cuda = re.search(r"CUDA (?:UMD |Driver )?Version\s*:\s*([0-9]{1,2}\.[0-9]{1,2})\b", banner)
    driver = _matching(r"[0-9]{2,4}(\.[0-9]{1,4}){1,3}", known[0][3]) if known else None
    return {"gpus": gpus, "driver": driver, "cuda": cuda[1] if cuda is not None else None}


def _is_card(name: str) -> bool:
    return bool(name) and name.isprintable() and not name.startswith("[")


def _matching(pattern: str, text: str) -> Optional[str]:
    """*text*, if that is what is expected; a driver that is half gone says anything."""
    return text if re.fullmatch(pattern, text) else None


def _memory_of(mebibytes: str) -> Optional[int]:
    """As nvidia-smi tells it; None for what no card has."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", mebibytes):
        return None
    size = int(float(mebibytes) * 2**20)
    return size if 0 < size <= _MEMORY_MOST else None


def _lines(argv: List[str]) -> List[str]:
    """What *argv* prints, as far as anybody would read it."""
    lines: List[str] = []

    def keep(line: str) -> None:
        if len(lines) < _LINES_MOST:
            lines.append(line[:_LINE_CHARS])

    done = process.run(argv, timeout_s=PROBE_S, on_line=keep)
    if done.status != 0:
        raise LookupError(f"{argv[0]} ended with {done.status}")
    return lines


def _kernel_driver() -> Optional[str]:
    with open("/proc/driver/nvidia/version", encoding="utf-8", errors="replace") as file:
        words = file.readline().split()
    return next((word for word in words if word[:1].isdigit() and "." in word), None)


def _disks(workspace: str) -> List[Dict[str, object]]:
    seen: Dict[int, Dict[str, object]] = {}
    for path in (workspace, os.path.expanduser("~"), "/tmp", "/"):  # noqa: S108
        existing = nearest_folder(path)
        usage = shutil.disk_usage(existing)
        fact = {"path": path, "total_bytes": usage.total, "free_bytes": usage.free}
        seen.setdefault(os.stat(existing).st_dev, fact)
    return list(seen.values())


def _memory_bytes() -> int:
    """The smaller of the machine's memory and the container's share of it."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                sizes.append(int(file.read()))
        except (OSError, ValueError):
            continue  # no such cgroup version, or "max"
    return min(sizes)


def _cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return count


def _pythons() -> List[Dict[str, str]]:
    """The agent's own interpreter first, then others on PATH, newest first."""
    own = {"path": sys.executable, "version": ".".join(map(str, sys.version_info[:3]))}
    found = [own]
    for minor in range(14, 7, -1):
        path = shutil.which(f"python3.{minor}")
        if path is not None and not os.path.samefile(path, sys.executable):
            found.append({"path": path, "version": f"3.{minor}"})
    return found


def _init() -> str:
    if systemd_answers():
        return "systemd"
    doors = glob.glob("/run/supervisor*.sock") + glob.glob("/var/run/supervisor*.sock")
    with open("/proc/1/comm", encoding="ascii") as file:
        first = file.read().strip()
    return "supervisor" if doors or first == "supervisord" else "none"


def _listening() -> List[Dict[str, object]]:
    """What serves here already; a process that may not be looked into is None."""
    found = sockets.everyone().items()
    return [{"port": port, "process": sockets.describe(pids[0]) if pids else None} for port, pids in found]
