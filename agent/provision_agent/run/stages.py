"""The order of a run's work: what can overlap does; first all that `usable` waits for, then the rest.

Downloads, checkouts and the environment go on side by side. The sequential steps of `STEPS` follow for each level, in
their order, when what they may need of that level is there.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Callable, List, Mapping, Optional, Sequence, Tuple, TypeVar

from ..contract.plan import Plan
from ..contract.plan_parts import Item
from ..contract.steps import LEVELS, SEQUENTIAL, STEPS
from ..downloads import Downloads
from ..steps import nodes
from .step_runner import LOOK_AGAIN_S, Checkouts, Items
from .tally import Tally

CLONES_AT_ONCE = 4

T = TypeVar("T")
ItemT = TypeVar("ItemT", bound=Item)


class Stages:
    """The work of one run. First `until_usable`, then `until_complete`."""

    def __init__(
        self, plan: Plan, items: Items, tally: Tally, downloads: Downloads, is_over: Callable[[], bool]
    ) -> None:
        self._plan = plan
        self._items = items
        self._tally = tally
        self._downloads = downloads
        self._is_over = is_over
        self._clones = ThreadPoolExecutor(CLONES_AT_ONCE, thread_name_prefix="clone")
        self._installs = ThreadPoolExecutor(1, thread_name_prefix="install")
        self._checkouts: Checkouts = []
        self._environment: "Optional[Future[None]]" = None

    def until_usable(self, facts: Mapping[str, object]) -> bool:
        """Begin everything, and wait for all that is critical up to its checks; False when the run is over first."""
        if chosen(self._plan, "downloads", self._plan.downloads):
            self._tally.start("downloads")
            self._downloads.start()
        wanted = sorted(
            chosen(self._plan, "repos", self._plan.repos), key=lambda repo: LEVELS.index(repo.level)
        )
        self._checkouts = [(repo, self._clones.submit(self._items.checkout, repo, facts)) for repo in wanted]
        self._environment = self._installs.submit(self._items.environment, facts, self._checkouts)
        if not any(repo.install or nodes.FOLDER in repo.path.split("/") for repo in wanted):
            self._clones.submit(self._finish_repos)
        return self._stage(("critical",))

    def until_complete(self) -> bool:
        """Wait for the rest, up to its checks; False when the run is over first."""
        return self._stage(("required", "optional"))

    def start_services(self, when: str, facts: Mapping[str, object]) -> None:
        """Start what belongs to `usable` or to `complete`, one after the other."""
        for service in chosen(self._plan, "services", self._plan.services):
            if service.start == when:
                self._items.service(service, facts)

    def look_again(self) -> None:
        """At what is critical: it may have come with the rest, or gone."""
        for step in SEQUENTIAL:
            if STEPS[step].only_looks:
                for item in chosen(self._plan, step, self._plan.items(step), ("critical",)):
                    if self._tally.is_failed(step, item.key):
                        self._items.do(step, item)
                    else:
                        self._items.look_again(step, item)

    def _stage(self, levels: Tuple[str, ...]) -> bool:
        is_last = "optional" in levels
        if self._environment is not None:
            self._await(self._environment)
        for repo, checkout in self._checkouts:
            if repo.level in levels and self._await(checkout):
                self._items.install_requirements(repo)
        if is_last:
            self._tally.finish("repos")
        for level in levels:
            self._downloads.wait(level)
        settle(self._downloads, self._tally)
        if is_last:
            self._tally.finish("downloads")
        for step in SEQUENTIAL:
            for item in chosen(self._plan, step, self._plan.items(step), levels):
                self._items.do(step, item)
            if is_last and not STEPS[step].only_looks:
                self._tally.finish(step)
        return not self._is_over()

    def _finish_repos(self) -> None:
        wait([checkout for _, checkout in self._checkouts])
        self._tally.finish("repos")

    def _await(self, future: "Future[T]") -> Optional[T]:
        """The result of *future*; None when the run is over first."""
        while not self._is_over():
            if wait([future], timeout=LOOK_AGAIN_S).done:
                return future.result()
        return None


def chosen(plan: Plan, step: str, items: Sequence[ItemT], levels: Tuple[str, ...] = LEVELS) -> List[ItemT]:
    """Those of *items*, the plan's for *step*, that a run of *plan* does, of *levels*."""
    return [item for item in items if item.level in levels] if step in plan.steps else []


def settle(downloads: Downloads, tally: Tally) -> None:
    """Count what became of the downloads so far."""
    for key, result in downloads.results().items():
        if result.state == "failed" and result.failure is not None:
            tally.fail("downloads", key, result.level, result.failure, is_reported=True)
        elif result.state in ("ok", "skipped"):
            tally.succeed("downloads", key)
