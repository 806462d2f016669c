"""What the sources of a plan said, and what stands on an instance. Pure: `survey` asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provision_agent.contract.failures import FAILURES, FailureClass
from provision_agent.contract.plan import Plan

if TYPE_CHECKING:  # a command that asks nobody needs none of them
    from provision_agent.contract.environment_told import EnvironmentTold
    from provision_agent.contract.findings import Standing


@dataclass(frozen=True)
class Source:
    """What one URL said. `class_` is ``ok``, or the class of failure as the agent names it."""

    url: str
    class_: str
    message: str = ""
    hint: str = ""
    size_bytes: int | None = None
    sha256: str | None = None
    name: str | None = None
    pinned_url: str | None = None
    """The same file at the commit that its branch or tag stands for now."""
    commit: str | None = None
    """Of a repo: what its ref stands for there."""

    @property
    def is_ok(self) -> bool:
        return self.class_ == "ok"

    @property
    def failure(self) -> FailureClass | None:
        """What its class means; None for one that is fine, or whose class this release does not know."""
        return FAILURES.get(self.class_)


@dataclass(frozen=True)
class Survey:
    """The answers, in the order of the plan: per item its URL, its mirrors, its substitute."""

    downloads: tuple[tuple[Source, ...], ...]
    repos: tuple[tuple[Source, ...], ...]
    standing: Standing | None = None
    rate_bytes_per_s: float | None = None
    taken: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By a download's key, why its final name cannot be its own."""
    secrets_wanted: tuple[str, ...] = ()
    """Default secrets whose hosts refused something without them."""
    environment: EnvironmentTold | None = None
    """What the packages are; None: nobody asked, or there are none."""


def unasked(plan: Plan) -> Survey:
    """The survey of a plan that pins everything itself: nobody is asked, what it says is taken at its word."""
    return Survey(
        downloads=tuple(
            tuple(
                Source(url, "ok", size_bytes=item.size_bytes, sha256=item.sha256)
                for url in (item.url, *item.mirrors)
            )
            for item in plan.downloads
        ),
        repos=tuple(
            tuple(Source(url, "ok", commit=repo.ref) for url in (repo.url, *repo.mirrors))
            for repo in plan.repos
        ),
    )
