"""How an agent is started from its file: a few lines read the file once, compare it with what is expected, and run what they read.

Whatever becomes of the file's name meanwhile or later, nothing else is run: modules that are wanted later come from the same bytes.
"""

from __future__ import annotations

import base64
import sys
from typing import Optional

CHANGED_STATUS = 3
"""The exit status when the file is not what was expected; stderr says so."""
CHANGED = "is not what was sent: somebody changed it"
GONE = "can't open file"
"""What python says, with exit status 2, of a program that is not there; the loader says the same."""

_LOADER = r"""
import hashlib, io, os, sys, zipfile
from importlib.machinery import ModuleSpec
class Agent:
    early = staticmethod(lambda name: None)
    def __init__(self, path, sha256, data):
        self.path, self.sha256, files = path, sha256, zipfile.ZipFile(io.BytesIO(data))
        self.files = {name: files.read(name) for name in files.namelist()}
    def find_spec(self, name, path=None, target=None):
        base = name.replace(".", "/")
        for file in base + "/__init__.py", base + ".py":
            if file in self.files:
                spec = ModuleSpec(name, self, origin=self.path + "/" + file, is_package=file.endswith("/__init__.py"))
                spec.has_location = True
                return spec
    def create_module(self, spec): return None
    def get_source(self, name): return self.files[self.find_spec(name).origin[len(self.path) + 1:]].decode()
    def exec_module(self, module):
        exec(self.early(module.__name__) or compile(self.get_source(module.__name__), module.__file__, "exec"), module.__dict__)
path, sha256 = sys.argv[1:3]
sha256, _, held = sha256.partition("@")
try:
    with open(int(held) if held else os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file: data = file.read(1 << 26)
except OSError as error:
    sys.stderr.write("GONE '%s': %s\n" % (path, error.strerror))
    sys.exit(2 if error.errno in (2, 20) else 3)
if hashlib.sha256(data).hexdigest() != sha256:
    sys.stderr.write("the agent's file '%s' CHANGED\n" % path)
    sys.exit(3)
sys.meta_path.append(Agent(path, sha256, data))
sys.argv[:3] = [path]
""".replace("GONE", GONE).replace("CHANGED", CHANGED)

MAIN = "from provision_agent.__main__ import main; sys.exit(main())"


def loader(main: str = MAIN) -> str:
    """The program as one line that every shell and supervisor hands on unchanged. Its arguments: path, sha256, those of the agent.

    A hash that ends with ``@N`` is that of what the descriptor N holds from where it stands, whatever the path leads to by now.

    Args:
        main: What is done once the agent can be imported.
    """
    code = base64.b64encode(f"{_LOADER}{main}\n".encode()).decode()
    return f'import base64; exec(base64.b64decode("{code}"))'


def finder() -> Optional[object]:
    """What imports the modules of this process from a verified file, where it was started by `loader`."""
    return next((each for each in sys.meta_path if isinstance(getattr(each, "sha256", None), str)), None)


def verified_sha256() -> Optional[str]:
    """Of the file that this process runs from, where it was started by `loader`."""
    return getattr(finder(), "sha256", None)
