"""One install: resolved first, its wheels fetched by the engine, then put in place from the disk.

What an index cannot bring as a wheel (a repository, a folder, a source distribution), and whatever goes wrong on this
way, is the installer's own to do, as ever: it finds the rest installed.
"""

from __future__ import annotations

import os
import shutil
import ssl
import time
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ...contract.failures import Failure
from ...contract.pylock import Lock, LockedFile, LockedPackage
from ...host.probe import normalised
from ...run.context import Context
from ..progress import Progress
from . import families, interrupted, resolver
from .ahead import Ahead, Whole
from .resolver import Order, Resolver
from .tags import Target
from .wheel_store import WheelStore

_UNREACHED = ("proxy", "client-cert", "keyring-provider", "cert")
"""Settings of pip that say how an index is reached, which the engine does not know; see `_unknown_ways`."""
BATCH_BYTES = 64 << 20
"""When so much is here, it is put in place while the rest still comes."""
Run = Callable[[List[str], Mapping[str, str]], None]
"""Runs a command of the installer in an environment of variables. Raises Failure."""


@dataclass
class Surroundings:
    """What an install has to do with: of one environment, at one moment."""

    uv: str
    python: str
    version: str
    settings: Mapping[str, str]
    """What the user told pip."""
    environment: Mapping[str, str]
    installed: Mapping[str, str]
    constraints: Sequence[str]
    standing: Sequence[str] = ()
    """Plain requirements that hold already: what is brought must go with them."""
    site_packages: str = ""
    """The folder into which is installed."""
    logins: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What each origin of an index is shown, as `indexes.logins` says."""


class LockedInstalls:
    """The installs of one run's environment that go this way. Not for two threads at once.

    Args:
        store: Brings the wheels.
        context: Of the run.
    """

    def __init__(self, store: WheelStore, context: Context) -> None:
        self.store = store
        self.ahead: Dict[str, str] = {}
        """Versions by name that were resolved for all that is wanted: each install prefers them."""
        self.look_ahead: Optional[Ahead] = None
        """Resolves all that the plan wants together; None: each install by itself."""
        self.whole: Optional[Whole] = None
        """The last that was resolved ahead: the same need not be asked again."""
        self.standing: List[str] = []
        """Plain requirements of the nodes that are installed."""
        self._context = context
        self._resolvers: Dict[Tuple[str, str], Resolver] = {}

    def resolver(self, uv: str, python: str) -> Resolver:
        """The one of an environment."""
        return self._resolvers.setdefault((uv, python), Resolver(uv, python, self._context))

    def resolve(self, order: Order, around: Surroundings) -> Lock:
        """What *order* brings. Raises Failure, as `Resolver.resolve`."""
        is_plain = not (order.options or order.is_forced)
        lines, whole = [*around.standing, *order.lines], self.whole
        if is_plain and whole is not None and whole.answers(lines, around.constraints, around.installed):
            return whole.lock
        return self.resolver(around.uv, around.python).resolve(
            replace(order, lines=tuple(lines)),
            constraints=around.constraints,
            installed=around.installed,
            preferred=self.ahead,
            environment=around.environment,
        )

    def missing(self, lock: Lock, order: Order, around: Surroundings) -> List[LockedPackage]:
        """What of *lock* is to be installed."""
        of = self.resolver(around.uv, around.python)
        wanted = resolver.needed(lock, around.installed, is_forced=order.is_forced)
        return [package for package in wanted if not of.is_offer(package)]

    def begin(
        self, packages: Sequence[LockedPackage], around: Surroundings, *, level: str
    ) -> Dict[str, LockedFile]:
        """Begin to fetch the wheels of *packages*, and say which they are, by the package's name."""
        wheels = self._wheels(packages, around)
        if not _unknown_ways(around.settings):
            self.store.begin(list(wheels.values()), level=level, logins=around.logins)
        return wheels

    def install(
        self, order: Order, around: Surroundings, progress: Progress, run: Run, *, level: str
    ) -> bool:
        """Bring what *order* asks for; True when nothing is left to do.

        Args:
            progress: Told what happens.
            run: Installs with what it is told.
            level: Of what this is part of.

        Raises:
            Failure: it cannot be resolved, or cannot be put in place from the disk.
        """
        if self.look_ahead is not None:
            self.look_ahead.before(self, order, around)
        lock = self.resolve(order, around)
        missing = self.missing(lock, order, around)
        is_whole = not (order.is_forced or "--no-deps" in order.options or not around.site_packages)
        names = {normalised(package.name) for package in missing}
        held = families.displaced(names, around.installed) if is_whole else {}
        packages = [package for package in missing if normalised(package.name) not in held]
        wheels = self.begin(packages, around, level=level)
        if self.look_ahead is not None:
            self.look_ahead.after(self, order, around, lock)
        if packages:
            progress.say(_told(packages, list(wheels.values())))
        done = self.place(packages, wheels, order, around, progress, run)
        if len(done) < len(packages):
            return False
        for package in missing:
            kept = held.get(normalised(package.name))
            if kept is not None and package.version is not None:
                progress.say(f"{package.name} is not installed, since {kept} has the same files")
                families.stand_in(around.site_packages, normalised(package.name), package.version, kept)
        return order.is_all and all(each.is_of_index for each in lock.packages)

    def place(
        self,
        packages: Sequence[LockedPackage],
        by_name: Mapping[str, LockedFile],
        order: Order,
        around: Surroundings,
        progress: Progress,
        run: Run,
    ) -> Set[str]:
        """Install those of *packages* whose wheels come, and what is here while the rest still comes.

        Args:
            by_name: Their wheels, as `begin` has begun to fetch them.

        Returns:
            The names of those that are installed. The others are for whoever can bring them.

        Raises:
            Failure: as the installer's, or the run was ended.
        """
        done: Set[str] = set()
        began_at = time.monotonic()
        left = [package for package in packages if package.name in by_name]
        while left:
            wheels = [by_name[package.name] for package in left]
            fetched = self.store.wait(wheels, progress, batch_bytes=BATCH_BYTES)
            for why, names in _by_message(fetched.failures).items():
                progress.say(f"the installer fetches {', '.join(names)}: {why}")
            here = [package for package in left if by_name[package.name].file_name in fetched.paths]
            left = [
                package
                for package in left
                if package not in here and by_name[package.name].file_name not in fetched.failures
            ]
            if not left:
                took_s = time.monotonic() - began_at
                progress.say(
                    f"{len(done) + len(here)} of {len(packages)} wheels are here after {took_s:.1f} s"
                )
            if here:
                self._put(here, by_name, fetched.paths, order, around, run)
                self.store.installed([by_name[each.name] for each in here])
                done.update(each.name for each in here)
        return done

    def _put(
        self,
        packages: Sequence[LockedPackage],
        wheels: Mapping[str, LockedFile],
        paths: Mapping[str, str],
        order: Order,
        around: Surroundings,
        run: Run,
    ) -> None:
        """Install *packages* from their files, which are here and right."""
        links = os.path.join(self._context.run_directory, "wheels")
        shutil.rmtree(links, ignore_errors=True)
        os.makedirs(links)
        for package in packages:
            name = wheels[package.name].file_name
            os.symlink(paths[name], os.path.join(links, name))
        argv = [
            around.uv,
            "pip",
            "install",
            "--python",
            around.python,
            "--offline",
            "--no-index",
            "--no-deps",
        ]
        argv += ["--find-links", links, *(["--reinstall"] if order.is_forced else [])]
        argv += ["--no-cache"] if order.is_uncached else []
        argv += [] if "UV_LINK_MODE" in around.environment else ["--link-mode", _link_mode(around)]
        names = [package.name for package in packages]
        interrupted.begin(self._context, around.python, names)
        run([*argv, *(package.pin for package in packages)], resolver.from_disk(around.environment))
        interrupted.end(self._context, around.python, names)
        shutil.rmtree(links, ignore_errors=True)

    def _wheels(self, packages: Sequence[LockedPackage], around: Surroundings) -> Dict[str, LockedFile]:
        """The wheel of each of *packages* that has one for this interpreter, by the package's name."""
        target = Target.of(around.version)
        found: Dict[str, LockedFile] = {}
        for package in packages:
            fitting = [wheel for wheel in package.wheels if wheel.sha256 and target.takes(wheel.file_name)]
            own = [wheel for wheel in fitting if not wheel.file_name.endswith("-any.whl")]
            if package.is_of_index and fitting:
                found[package.name] = (own or fitting)[0]
        return found


def _link_mode(around: Surroundings) -> str:
    """Files are the same on the disk as in uv's cache, where both are on one file system."""
    cache, venv = around.environment.get("UV_CACHE_DIR", ""), os.path.dirname(os.path.dirname(around.python))
    try:
        os.makedirs(cache, exist_ok=True)
        return "hardlink" if os.stat(cache).st_dev == os.stat(venv).st_dev else "copy"
    except OSError:
        return "copy"


def _told(packages: Sequence[LockedPackage], wheels: Sequence[LockedFile]) -> str:
    sizes = [wheel.size_bytes for wheel in wheels]
    known = sum(size for size in sizes if size is not None)
    amount = f"{known / 1e6:.1f} MB" + (" and more" if None in sizes else "")
    return (
        f"{len(packages)} packages are wanted: {amount if known else 'of unknown size'}, each with its hash"
    )


def _unknown_ways(settings: Mapping[str, str]) -> List[str]:
    """What pip is told of the way to an index that the engine does not know: certificates of the system it knows."""
    found = [name for name in _UNREACHED if name in settings]
    if found == ["cert"] and _is_of_the_system(settings["cert"]):
        return []
    return found


def _is_of_the_system(bundle: str) -> bool:
    """Are the authorities in the file *bundle* those that this python believes anyway?"""
    paths, wanted = ssl.get_default_verify_paths(), os.path.realpath(os.path.expanduser(bundle))
    files = [path for path in (paths.cafile, paths.openssl_cafile) if path]
    folders = [path for path in (paths.capath, paths.openssl_capath) if path]
    is_file = wanted in map(os.path.realpath, files)
    return is_file or os.path.dirname(wanted) in map(os.path.realpath, folders)


def _by_message(failures: Mapping[str, Failure]) -> Dict[str, List[str]]:
    """The names that failed, by why."""
    found: Dict[str, List[str]] = {}
    for name, failure in failures.items():
        found.setdefault(failure.message, []).append(name)
    return found
