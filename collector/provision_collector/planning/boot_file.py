"""One Python file that brings an instance to what a plan says when its provider starts it, with nobody there.

It holds the agent, as it is pushed over SSH, and the plan; no secret. It stores and starts the agent in the same way, so that
`up` and `attach` find its run as one of their own.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping

from provision_agent.contract.frames import AGENT_MAGIC
from provision_agent.contract.messages import StartRequest
from provision_agent.contract.parsing import to_json
from provision_agent.contract.plan import Plan
from provision_agent.contract.redaction import forms_of, public_url

from ..distribution import DISTRIBUTION, version
from ..errors import UsageError
from ..instance import build_bundle
from ..instance.deploy import BOOTSTRAP, PYTHONS, head_of
from ..run.spec import agent_folders

MAX_BYTES = 1 << 20
_WIDTH = 120
_LEVEL = 6  # 9 takes more than twice as long, for a file that is one hundredth smaller

_PROGRAM = r'''#!/usr/bin/env python3
# Made by `provision bundle`: brings this machine to what the profile %(name)s says, with nobody there.
#   python3 FILE           begins the run, or goes on with it, and leaves it running
#   python3 FILE --show    prints the plan, and does nothing
# Its secrets it takes from the environment: %(secrets)s. It holds none.
# plan %(plan)s
# agent %(agent)s (%(version)s)
import os
import sys

if sys.version_info < (3, 8):
    for name in %(pythons)r if os.path.isfile(sys.argv[0]) else ():
        for folder in os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":"):
            path = os.path.join(folder, name)
            test = '"' + path + '" -I -S -c "import sys; sys.exit(sys.version_info < (3, 8))" 2>/dev/null'
            if os.access(path, os.X_OK) and os.system(test) == 0:
                os.execv(path, [path] + sys.argv)
    sys.exit("provision: this is Python %%d.%%d, and it takes 3.8 or newer\n"
             "  next: run this file with a newer one, or install one first: apt-get install -y python3" %% sys.version_info[:2])
if sys.path and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # no file beside this one is a module of it

import base64
import json
import subprocess
import zlib

MARK = %(mark)r
TOLD = """
%(told)s
"""
AGENT = """
%(archive)s
"""


def unpacked(text):
    return zlib.decompress(base64.b64decode(text))


def hello(child):
    """What the bootstrap says next of the agent's file; None when it says no more."""
    for line in child.stdout:
        if line.startswith(MARK):
            return json.loads(line[len(MARK):].decode())
        sys.stdout.buffer.write(line if line.strip() else b"")
    return None


def main():
    told = json.loads(unpacked(TOLD).decode())
    if sys.argv[1:]:
        if sys.argv[1:] != ["--show"]:
            sys.exit("provision: `%%s` means nothing to this file\n  next: python3 FILE, or python3 FILE --show" %% " ".join(sys.argv[1:]))
        print(json.dumps(told["request"]["plan"], indent=1))
        return 0
    os.environ.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    child = subprocess.Popen(
        [sys.executable or "python3", "-I", "-S", "-c", told["bootstrap"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        child.stdin.write(json.dumps(told["head"]).encode() + b"\n")
        child.stdin.flush()
        said = hello(child) or {"error": "the bootstrap ended"}
        if not said.get("error"):
            child.stdin.write(b"" if said["have"] else unpacked(AGENT))
            child.stdin.write(json.dumps(told["request"]).encode())
        child.stdin.close()
    except BrokenPipeError:
        said = {}
    said = said if said.get("error") else hello(child) or {}
    status = child.wait()
    if said.get("error"):
        print("provision: the agent cannot be stored: %%s" %% said["error"])
        print("  next: make room there" if said.get("full") else "  next: mount that folder writable, or make the file again with `--workspace`")
    sys.stdout.flush()
    return status


sys.exit(main())
'''


def boot_file(
    plan: Plan, *, labels: Mapping[str, str], replace: bool = False, offline: bool = False
) -> bytes:
    """The file's bytes, the same for the same plan, options and version.

    Args:
        plan: What it brings an instance to.
        labels: Come back in the run's events.
        replace: Stop another plan's run that is going when it starts.
        offline: Ask no outside host.

    Raises:
        UsageError: it would be larger than `MAX_BYTES`.
    """
    bundle = build_bundle()
    request = StartRequest(
        run="", plan=plan.to_json(), labels=dict(labels), replace=replace, offline=offline or None
    )
    told = {
        "bootstrap": BOOTSTRAP,
        "head": head_of(bundle, agent_folders(plan, None), ["boot"]),
        "request": to_json(request),
    }
    names = ", ".join(rule.name for rule in plan.secrets)
    text = _PROGRAM % {
        "name": ascii(plan.name),
        "secrets": names or "none is wanted",
        "plan": plan.hash,
        "agent": bundle.sha256,
        "version": f"{DISTRIBUTION} {version()}",
        "pythons": PYTHONS,
        "mark": AGENT_MAGIC.lstrip(),
        "told": _packed(json.dumps(told, sort_keys=True).encode()),
        "archive": _packed(bundle.data),
    }
    data = text.encode("ascii")
    if len(data) > MAX_BYTES:
        raise UsageError(
            f"the plan of `{plan.name}` makes a file of {len(data)} bytes, and {MAX_BYTES} are the most that providers take",
            hint="make the profile smaller: put long `files:` into a repository, whole repositories into one `hf://` item",
        )
    return data


def secrets_within(plan: Plan, values: Mapping[str, str]) -> list[str]:
    """What of *plan* would be a secret in the file, in words for people.

    Args:
        values: Secrets by name, as far as this machine has them.
    """
    told = plan.to_json()
    text = json.dumps(told, ensure_ascii=False)
    found = [
        f"the value of `{name}` stands in the plan"
        for name, value in values.items()
        if any(form in text for form in forms_of([value]))
    ]
    shown = [public_url(url) for url in _urls(told) if public_url(url) != url.partition("#")[0]]
    return found + [f"`{url}` is given with a login, a token or a signature in it" for url in shown]


def _urls(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _urls(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _urls(each)
    elif isinstance(value, str) and value.startswith(("http://", "https://", "git+http", "ssh://", "git://")):
        yield value


def _packed(data: bytes) -> str:
    text = base64.b64encode(zlib.compress(data, _LEVEL)).decode()
    return "\n".join(text[at : at + _WIDTH] for at in range(0, len(text), _WIDTH))
