"""The order of a run's work: what can overlap does; first all that `usable` waits for, then the rest.

Uploads, downloads, checkouts and the environment go on side by side. The sequential steps of `STEPS` follow for each level, in
their order, when what they may need of that level is there.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Callable, Mapping, Optional, Tuple, TypeVar

from ..contract.plan import Check, Plan, Repo
from ..contract.plan_parts import Item
from ..contract.steps import LEVELS, SEQUENTIAL, STEPS
from ..downloads import Downloads
from ..steps import nodes
from ..steps.python.last_look import LastLook
from ..steps.uploads import Uploads
from . import unchanged
from .journal import Journal
from .step_runner import LOOK_AGAIN_S, Checkouts, Items
from .tally import Tally

CLONES_AT_ONCE = 4

T = TypeVar("T")


class Stages:
    """The work of one run. First `until_usable`, then `until_complete`."""

    def __init__(
        self,
        plan: Plan,
        items: Items,
        tally: Tally,
        downloads: Downloads,
        uploads: Uploads,
        is_over: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._items = items
        self._tally = tally
        self._downloads = downloads
        self._uploads = uploads
        self._is_over = is_over
        self._clones = ThreadPoolExecutor(CLONES_AT_ONCE, thread_name_prefix="clone")
        self._installs = ThreadPoolExecutor(1, thread_name_prefix="install")
        self._facts: Mapping[str, object] = {}
        self._checkouts: Checkouts = []
        self._environment: "Optional[Future[None]]" = None

    def until_usable(self, facts: Mapping[str, object]) -> bool:
        """Begin everything, and wait for all that is critical up to its checks; False when the run is over first."""
        self._facts = facts
        if self._plan.chosen("downloads", self._plan.downloads):
            self._tally.start("downloads")
            self._downloads.start()
        wanted = sorted(
            self._plan.chosen("repos", self._plan.repos), key=lambda repo: LEVELS.index(repo.level)
        )
        self._checkouts = [(repo, self._clones.submit(self._items.checkout, repo, facts)) for repo in wanted]
        self._environment = self._installs.submit(self._items.environment, facts, self._checkouts)
        if not any(repo.install or nodes.FOLDER in repo.path.split("/") for repo in wanted):
            self._clones.submit(self._finish_repos)
        return self._stage(("critical",))

    def until_complete(self, meanwhile: Callable[[], None]) -> bool:
        """Wait for the rest, up to its checks; False when the run is over first.

        Args:
            meanwhile: Done again and again once nothing comes any more but files to fetch.
        """
        return self._stage(("required", "optional"), meanwhile)

    def look_again(self) -> None:
        """At what is critical: it may have come with the rest, or gone."""
        for step in SEQUENTIAL:
            if STEPS[step].only_looks:
                for item in self._plan.chosen(step, self._plan.items(step), ("critical",)):
                    if self._tally.is_failed(step, item.key):
                        self._items.do(step, item)
                    else:
                        self._items.look_again(step, item)

    def _stage(self, levels: Tuple[str, ...], meanwhile: Optional[Callable[[], None]] = None) -> bool:
        is_last = "optional" in levels
        is_settled = not self._plan.chosen("files", self._plan.files, levels)
        if self._environment is not None:
            self._await(self._environment)
        early = "critical" in levels
        self._install_requirements([each for each in self._checkouts if self._is_early(each[0]) == early])
        if is_last and not self._is_over():
            self._items.install_compiled(levels, self._facts)
        self._items.environment_is_settled()
        if not self._is_over():
            self._items.check_nodes()
        if is_last:
            self._tally.finish("repos")
        for level in levels:
            self._await(self._clones.submit(self._downloads.wait, level), meanwhile if is_settled else None)
            self._await(self._clones.submit(self._uploads.wait, level), meanwhile if is_settled else None)
        settle(self._downloads, self._tally)
        if is_last:
            self._tally.finish("uploads", "downloads")
        for step in SEQUENTIAL:
            for item in self._plan.chosen(step, self._plan.items(step), levels):
                if not self._waits_for_a_service(item):
                    self._items.do(step, item)
            if is_last and not STEPS[step].only_looks:
                self._tally.finish(step)
        return not self._is_over()

    def _install_requirements(self, checkouts: Checkouts) -> None:
        """Of repositories in their order: of those together that are there when it is the turn of the first."""
        left = list(checkouts)
        while left and not self._is_over():
            self._await(left[0][1])
            count = next((n for n, (_, checkout) in enumerate(left) if not checkout.done()), len(left))
            ready, left = left[:count], left[count:]
            self._items.install_requirements([repo for repo, checkout in ready if checkout.result()])

    def _finish_repos(self) -> None:
        wait([checkout for _, checkout in self._checkouts])
        self._tally.finish("repos")

    def _is_early(self, repo: Repo) -> bool:
        """Is it there before anything is usable? What is critical, and the required nodes of a service that starts then."""
        if repo.level != "required":
            return repo.level == "critical"
        service = self._items.judge_of(repo)
        return service is not None and service.start == "usable"

    def _waits_for_a_service(self, item: Item) -> bool:
        """Is it asked of a service, which then is not there yet?"""
        return isinstance(item, Check) and item.service is not None and "services" in self._plan.steps

    def _await(self, future: "Future[T]", meanwhile: Optional[Callable[[], None]] = None) -> Optional[T]:
        """The result of *future*; None when the run is over first. *meanwhile* is done again and again."""
        while not self._is_over():
            if wait([future], timeout=LOOK_AGAIN_S).done:
                return future.result()
            if meanwhile is not None:
                meanwhile()
        return None


def settle(downloads: Downloads, tally: Tally) -> None:
    """Count what became of the downloads so far."""
    for key, result in downloads.results().items():
        if result.state == "failed" and result.failure is not None:
            tally.fail("downloads", key, result.level, result.failure, is_reported=True)
        elif result.state in ("ok", "skipped"):
            tally.succeed("downloads", key)


def has_critical(plan: Plan) -> bool:
    """Whether *plan* asks for anything critical; then `usable` is said before `complete`."""
    has_python = plan.python is not None and "python" in plan.steps
    has_apt = bool(plan.system_packages) and "apt" in plan.steps
    return (
        has_apt
        or has_python
        or any(plan.chosen(step, plan.items(step), ("critical",)) for step in plan.steps)
    )


def say_unchanged(known: Optional[LastLook], journal: Journal, services: int) -> None:
    """Report what was looked at in place of being done again; nothing where the environment was another one.

    Args:
        known: What is known of the environment.
        services: How many ran before and went on.
    """
    if known is not None and known.print is not None and known.is_unchanged:
        found = journal.look(lambda state: unchanged.counted(state, services))
        packages, files = len(known.print.packages), known.print.files
        journal.event("unchanged", **unchanged.told(found, packages=packages, package_files=files))
