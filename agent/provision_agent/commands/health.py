"""How an instance is after its run: do its services answer, are its cards whole, does its disk take bytes?"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import List, Optional, Tuple

from ..contract.health import HealthAnswer, HealthRequest, ServiceHealth
from ..host import gpu_health
from ..run.answering import answer
from ..run.log_lines import size_text
from ..services import readiness
from ..services.files import Order, orders_in, read_status
from ..services.wait_ready import address_of

DISK_WITHIN_S = 10.0
LOW_BYTES, LOW_SHARE = 256 << 20, 0.005
"""A disk with less than both is as good as full."""


def health_main(argv: List[str]) -> int:
    """``health``: what is wrong with the instance, of what a `HealthRequest` asks for."""
    return answer(HealthRequest, _health)


def _health(request: HealthRequest) -> HealthAnswer:
    workspace = os.path.expanduser(request.workspace)
    with ThreadPoolExecutor(max_workers=8) as pool:
        cards = pool.submit(gpu_health.look)
        disk = pool.submit(_disk_problem, workspace)
        services = tuple(pool.map(_service, orders_in(workspace)))
        found, (free_bytes, disk_problem) = cards.result(), disk.result()
    problems = [f"service {each.name}: {each.problem}" for each in services if each.problem]
    problems += found.errors
    if request.gpus and len(found.cards or ()) < request.gpus:
        problems.append(f"nvidia-smi tells of {len(found.cards or ())} cards; there were {request.gpus}")
    problems += [disk_problem] if disk_problem else []
    used = max((card.used_bytes for card in found.cards or ()), default=None)
    return HealthAnswer(tuple(problems), services, free_bytes, used)


def _service(order: Order) -> ServiceHealth:
    service, status = order.service, read_status(order.status)
    if status.state == "stopped":  # somebody wanted that
        return ServiceHealth(service.name, status.state)
    if not status.is_running:
        why = f": {status.message}" if status.message else ""
        return ServiceHealth(
            service.name, status.state, f"it does not run ({status.state or 'never started'}){why}"[:4000]
        )
    problem, ready = "", address_of(service, status)
    if ready is not None:
        problem = readiness.look(ready, status.pid).problem
    return ServiceHealth(service.name, status.state, problem[:4000])


def _disk_problem(workspace: str) -> Tuple[Optional[int], str]:
    """The free bytes of the workspace's disk, and what is wrong with it."""
    told: List[Tuple[Optional[int], str]] = []
    looking = threading.Thread(target=lambda: told.append(_look_at_disk(workspace)), daemon=True)
    looking.start()
    looking.join(DISK_WITHIN_S)
    return told[0] if told else (None, f"the disk of `{workspace}` hangs")


def _look_at_disk(workspace: str) -> Tuple[Optional[int], str]:
    try:
        total, _, free = shutil.disk_usage(workspace)
        if free < LOW_BYTES and free < LOW_SHARE * total:
            return free, f"the disk of `{workspace}` is full: {size_text(free)} are free"
        with tempfile.TemporaryFile(dir=workspace, prefix=".health-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        return free, ""
    except OSError as error:
        return None, f"`{workspace}` cannot be written: {error.strerror or error}"
