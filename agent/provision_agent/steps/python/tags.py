"""Does a package's file fit an interpreter and this machine? Read off its name, as pip does, without a pip. Pure."""

from __future__ import annotations

import os
import re
from typing import NamedTuple, Optional, Tuple
from urllib.parse import unquote, urlsplit

from ...host.probe import normalised

_OLD_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


class Target(NamedTuple):
    """What wheels must fit. `glibc` is empty where there is none."""

    python: Tuple[int, ...]
    machine: str
    glibc: Tuple[int, ...]

    @classmethod
    def of(cls, python_version: str) -> Target:
        """An interpreter of *python_version* on this machine."""
        try:
            libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
        except (OSError, ValueError):
            libc = ""
        return cls(_numbers(python_version)[:2], os.uname().machine, _numbers(libc))

    def takes(self, file: str) -> bool:
        """True when the distribution *file* can be installed; of a source distribution that is hoped."""
        if not file.endswith(".whl"):
            return file.endswith((".tar.gz", ".zip"))
        pythons, abis, platforms = (tags.split(".") for tags in file[: -len(".whl")].split("-")[-3:])
        return any(map(self._runs_on, platforms)) and any(
            self._is_for(python, abi) for python in pythons for abi in abis
        )

    def _runs_on(self, platform: str) -> bool:
        if platform == "any":
            return True
        family, _, machine = platform.partition(f"_{self.machine}")
        if machine or not platform.endswith(self.machine):
            return False
        needed = _OLD_GLIBC.get(family) or (_numbers(family) if family.startswith("manylinux_") else ())
        return family == "linux" or (bool(needed) and needed <= self.glibc)

    def _is_for(self, python: str, abi: str) -> bool:
        major, minor = self.python
        tag = f"cp{major}{minor}"
        if python == tag:
            return abi in (tag, "abi3", "none")
        own = f"{python[:2]}{major}"
        since = python[len(own) :] or "0"
        is_older = python.startswith(own) and since.isdigit() and int(since) <= minor
        return is_older and (own[:2], abi) in (("py", "none"), ("cp", "abi3"))


def name_of(url: str) -> str:
    """The name of the file that *url* leads to."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def is_release(file: str) -> bool:
    """False for what comes before a release: pip takes that only where there is nothing else."""
    return re.search(r"\d(a|b|rc|\.dev)\d", file) is None


def has_version(file: str, name: str, version: Optional[str]) -> bool:
    """True when *file* is of *version* (None: any; without a local part it stands for every build of it)."""
    stem = re.sub(r"\.(whl|tar\.gz|zip)$", "", file)
    if file.endswith(".whl"):
        own_name, _, rest = stem.partition("-")
        own = rest.partition("-")[0]
    else:
        own_name, _, own = stem.rpartition("-")
    if normalised(own_name) != name:
        return False
    return version is None or _key(own if "+" in version else own.partition("+")[0]) == _key(version)


def _key(version: str) -> str:
    """Equal for versions that are: ``1.0`` and ``1.0.0``."""
    public, plus, local = version.lower().partition("+")
    return re.sub(r"(\.0)+$", "", public) + plus + local


def _numbers(text: str) -> Tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))
