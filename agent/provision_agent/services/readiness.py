"""Does a service answer as its plan says, and is it the service itself that answers?

Asked from this machine without proxies, credentials or redirects; bounded in time and size.
"""

from __future__ import annotations

import http.client
import json
from typing import List, Mapping, NamedTuple, Optional
from urllib.parse import SplitResult, urlsplit

from ..contract.parsing import kind_of
from ..contract.plan import Ready
from ..host import sockets
from . import comfyui, web

_SHOWN_CHARS = 80


class Answer(NamedTuple):
    """One look at the ready URL. `problem` is empty when all is as wanted; `class_` is for a failure made of it."""

    problem: str = ""
    class_: str = "not_ready"


def look(ready: Ready, child: Optional[int], *, needs_gpu: bool = False) -> Answer:
    """Ask the ready URL once.

    Args:
        ready: What is asked, and what the answer must hold.
        child: The service's process; an answer from any other's socket is not its own. None: not known.
        needs_gpu: Devices that must not be empty must have memory too: the service is to use the instance's GPU.

    Returns:
        An answer without a problem when all is as wanted. Takes `web.ANSWER_S` at most, never raises.
    """
    url = urlsplit(ready.url)
    try:
        code, body = web.ask(url)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Answer(f"no answer from {ready.url}: {reason}")
    stranger = _stranger(url, child)
    if stranger is not None:
        return Answer(f"port {web.port_of(url)} is answered by {stranger}, not by this service", "port_taken")
    if not 200 <= code < 300:
        return Answer(f"{ready.url} answers with {code}")
    is_comfyui = comfyui.is_meant(ready)
    wanted = dict({"devices": "not_empty"} if is_comfyui and needs_gpu else {}, **ready.json)
    return Answer(_unmet(wanted, body, is_comfyui=is_comfyui, needs_gpu=needs_gpu) if wanted else "")


def _stranger(url: SplitResult, child: Optional[int]) -> Optional[str]:
    """Who answers in place of the service; None when it is the service itself or cannot be known."""
    host = url.hostname or ""
    if child is None or not sockets.is_local(host):
        return None
    found = sockets.listeners(host, web.port_of(url))
    if not found or any(not listener.pids for listener in found[:1]):
        return None
    owners = sorted(found[0].pids)
    if any(sockets.belongs_to(pid, child) for pid in owners):
        return None
    return sockets.describe(owners[0])


def _unmet(wanted: Mapping[str, object], body: bytes, *, is_comfyui: bool, needs_gpu: bool) -> str:
    """The first expectation that the JSON *body* does not meet, in words; empty when it meets all."""
    try:
        data = json.loads(body)
    except ValueError:
        return "the answer is no JSON"
    for path, expected in wanted.items():
        value = _value_at(data, path)
        if expected == "not_empty":
            if not value:
                return f"`{path}` is empty"
            if needs_gpu and path.rpartition(".")[2] == "devices" and isinstance(value, list):
                problem = _without_memory(value, is_comfyui)
                if problem:
                    return problem
        elif value != expected:
            return f"`{path}` is {_shown(value)}, not {json.dumps(expected)}"
    return ""


def _shown(value: object) -> str:
    """*value* as it is, if it is short: half of one that holds a secret would not be recognised as such."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARS else kind_of(value)


def _without_memory(devices: List[object], is_comfyui: bool) -> str:
    """Which of *devices* has no memory, in words; empty when all that are GPUs have some.

    Another service than a ComfyUI may list its devices in a form of its own: that says nothing.
    """
    told = [device for device in devices if isinstance(device, dict)]
    if not is_comfyui and not any("vram_total" in device for device in told):
        return ""
    gpus = [device for device in told if device.get("type") != "cpu"] or told
    bare = [device for device in gpus if not _is_positive(device.get("vram_total"))]
    if gpus and not bare:
        return ""
    name = str(bare[0].get("name") or bare[0].get("type") or "?") if bare else "none"
    name = name if len(name) <= _SHOWN_CHARS else "?"
    return (
        f"it sees no GPU, although the instance has one: `vram_total` of its device `{name}` is not above 0 "
        "(a service that is meant to run without one needs `--cpu`)"
    )


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _value_at(data: object, path: str) -> object:
    """The value at a dotted *path*; a number is an index of a list. None when there is none."""
    for key in path.split("."):
        if isinstance(data, dict):
            data = data.get(key)
        elif isinstance(data, list) and key.isdigit() and int(key) < len(data):
            data = data[int(key)]
        else:
            return None
    return data
