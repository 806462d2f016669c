"""A workspace on which downloads run as in a real run, for tests of the engine and of those who use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision_agent.contract.plan import Download
from provision_agent.contract.plan_parts import ItemLimits, Limits, SecretRule, Stall
from provision_agent.downloads import Downloads, Preflight, Result, Sources
from provision_agent.run.context import Context
from provision_agent.run.outages import Outages
from provision_agent.run.state import StateFile


@dataclass
class Bench:
    """A workspace on which downloads run as in a real run, and the events that came of it."""

    root: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    secrets: Mapping[str, str] = field(default_factory=dict)
    rules: Sequence[SecretRule] = ()
    patience_s: float = 0.5
    is_offline: bool = False
    remaining_s: Callable[[], float] = lambda: 25.0
    on_event: Callable[[str, dict[str, Any]], None] = lambda name, fields: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.context = Context(
            workspace=str(self.root),
            run_id="test",
            run_directory=str(self.root),
            report=self._report,
            state=StateFile(str(self.root / "state.json")),
            cancelled=self.cancelled,
            remaining_s=lambda: self.remaining_s(),
            output=lambda line: None,
            secrets=self.secrets,
            outages=Outages(self.patience_s),
            is_offline=self.is_offline,
        )

    def engine(
        self, *items: Download, limits: Limits | None = None, sooner: Container[str] = ()
    ) -> Downloads:
        """The engine as a run makes it. Stop it."""
        sources = Sources(rules=self.rules, secrets=self.secrets, is_offline=self.is_offline)
        limits = limits or Limits()
        return Downloads(items, limits=limits, context=self.context, sources=sources, sooner=sooner)

    def fetch(self, *items: Download, limits: Limits | None = None) -> dict[str, Result]:
        """Run downloads to their end."""
        return self._fetch(items, limits, begin=lambda engine: None)

    def fetch_as_runs_do(self, *items: Download, limits: Limits | None = None) -> dict[str, Result]:
        """As `fetch`, preflight first."""
        return self._fetch(items, limits, begin=Downloads.preflight)

    def _fetch(
        self, items: Sequence[Download], limits: Limits | None, *, begin: Callable[[Downloads], object]
    ) -> dict[str, Result]:
        engine = self.engine(*items, limits=limits)
        try:
            begin(engine)
            engine.start()
            assert engine.wait(), f"not settled: {self.events[-5:]}"
        finally:
            engine.stop()
        return engine.results()

    def fetch_one(self, item: Download, limits: Limits | None = None) -> Result:
        """Run one download to its end."""
        return self.fetch(item, limits=limits)[item.key]

    def preflight(self, *items: Download) -> Preflight:
        """Run the preflight only."""
        engine = self.engine(*items)
        try:
            return engine.preflight()
        finally:
            engine.stop()

    def named(self, event: str) -> list[dict[str, Any]]:
        """The events ``download_<event>`` so far."""
        return [fields for fields in self.events if fields["event"] == f"download_{event}"]

    def names(self, item: str) -> list[str]:
        """What was said of *item*, without progress, in order."""
        names = [fields["event"][len("download_") :] for fields in self.events if fields.get("item") == item]
        return [name for name in names if name != "progress"]

    def path(self, item: str) -> Path:
        """Where *item* is."""
        return self.root / item

    def files(self) -> list[str]:
        """Every file of the workspace but the state and what is kept beside it, relative."""
        found = (str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())
        return sorted(name for name in found if name != "state.json" and not name.startswith("members/"))

    def _report(self, event: str, **fields: Any) -> None:
        with self._lock:
            self.events.append(dict(fields, event=event))
        self.on_event(event, fields)


def quick(**changes: Any) -> ItemLimits:
    """Limits with which trouble is noticed within a second."""
    values: dict[str, Any] = dict(stall=Stall(50 * 1024, 1.0), connect_s=2.0, lookup_s=3.0, **changes)
    return ItemLimits(**values)


def eventually(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.01)
