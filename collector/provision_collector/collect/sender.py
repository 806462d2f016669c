"""The follower for an instance that has no agent: its source goes through stdin, nothing is stored there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import provision_agent

from ..instance import python_command

OLDEST_PYTHON = (3, 6)
MODULES = (
    "contract.version",
    "contract.frames",
    "contract.log_names",
    "tail.inotify",
    "tail.log_file",
    "tail.writers",
    "tail.rotation",
    "tail.log_tail",
    "tail.server",
)
"""In this order, each needs only those before it."""

_LOADER = """
import json, os, sys, types
def take(size):
    got = b""
    while len(got) < size:
        part = os.read(0, size - len(got))
        if not part: sys.exit(0)
        got += part
    return got
head = b""
while not head.endswith(b"\\n"): head += take(1)
def package(name):
    if name not in sys.modules:
        made = sys.modules[name] = types.ModuleType(name)
        made.__path__ = []
        if "." in name: setattr(package(name.rpartition(".")[0]), name.rpartition(".")[2], made)
    return sys.modules[name]
package("provision_agent")
for name, size in json.loads(head.decode()):
    source = take(size).decode()
    if sys.version_info < (3, 7): source = source.replace("from __future__ import annotations", "")
    module = types.ModuleType("provision_agent." + name)
    module.__package__ = module.__name__.rpartition(".")[0]
    sys.modules[module.__name__] = module
    setattr(package(module.__package__), name.rpartition(".")[2], module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
sys.exit(sys.modules["provision_agent.tail.server"].follow_main([]))
"""


def follower_command() -> str:
    """The shell command that reads `follower_program` from its stdin and runs it."""
    return python_command(_LOADER, oldest=OLDEST_PYTHON)


@cache
def follower_program() -> bytes:
    """The follower's modules as the command wants them; a follow request comes next."""
    root = Path(provision_agent.__file__).parent
    sources = [(name, root.joinpath(*name.split(".")).with_suffix(".py").read_bytes()) for name in MODULES]
    head = json.dumps([[name, len(source)] for name, source in sources]).encode()
    return head + b"\n" + b"".join(source for _, source in sources)
