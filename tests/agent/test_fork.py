"""A child that goes on with what its parent has loaded has nothing else of it: no descriptor, signal, session or input."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import provision_agent
import pytest
from interpreters import interpreters

PYTHONS = {".".join(map(str, version)): path for version, path in interpreters().items()}
CHILD = """
import json, os, signal, sys
def main(words):
    if words[0] == "fails":
        raise RuntimeError("it broke")
    print(json.dumps({
        "words": words, "said": sys.stdin.buffer.read().decode(), "fds": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
        "leads": os.getsid(0) == os.getpid(), "folder": os.getcwd(), "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "hup": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
        "secret": os.path.exists("/proc/self/fd/%s" % words[1]),
    }))
    return 7
"""
PARENT = """
import json, os, signal, sys, types
sys.path.append(ROOT)
from provision_agent.host import fork
main = types.ModuleType("provision_agent.__main__")
exec(CHILD, main.__dict__)
sys.modules["provision_agent.__main__"] = main
assert sys.stdin.readline() == "for the parent\\n"  # and reads ahead
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
kept, other = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
log = os.open("log", os.O_WRONLY | os.O_CREAT)
ours, theirs = os.pipe()
child = fork.agent("a", str(other), stdin=ours, output=log, keep_fds=(kept,), directory="there")
os.close(ours)
os.write(theirs, b"for the child")
os.close(theirs)
status = child.wait(60)
failing = os.open("failed", os.O_WRONLY | os.O_CREAT)
failed = fork.agent("fails", stdin=kept, output=failing).wait()
print(json.dumps([status, failed, kept, fork.is_safe()]))
"""


@pytest.mark.parametrize("version", sorted(PYTHONS))
def test_a_child_has_what_it_is_given_and_nothing_else_of_its_parent(version: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    root = str(Path(provision_agent.__file__).parents[1])
    program = PARENT.replace("ROOT", repr(root)).replace("CHILD", repr(CHILD))

    done = subprocess.run(
        [PYTHONS[version], "-I", "-S", "-c", program],
        input="for the parent\nfor nobody\n",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    status, failed, kept, is_safe = json.loads(done.stdout)
    assert (status, failed, is_safe) == (7, 1, True)
    said = json.loads((tmp_path / "log").read_text())
    assert said.pop("words")[0] == "a"
    assert said == {
        "said": "for the child",
        "fds": [0, 1, 2, kept],
        "leads": True,
        "folder": str(tmp_path / "there"),
        "blocked": 0,
        "term": True,
        "hup": True,
        "secret": False,
    }
    assert "RuntimeError: it broke" in (tmp_path / "failed").read_text()
