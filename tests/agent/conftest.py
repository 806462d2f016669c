"""What the agent's tests share. Runs on Python 3.8 too: pytest and the standard library only."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

import pytest
from harness.file_server import FileServer, make_certificate

from provision_agent.context import Context
from provision_agent.downloads import Downloads, Preflight, Result, Sources
from provision_agent.plan import Download, ItemLimits, Limits, SecretRule, Stall
from provision_agent.state import StateFile


@dataclass
class Bench:
    """A workspace on which downloads run as in a real run, and the events that came of it."""

    root: Path
    events: List[Dict[str, Any]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    secrets: Mapping[str, str] = field(default_factory=dict)
    rules: Sequence[SecretRule] = ()
    remaining_s: Callable[[], float] = lambda: 25.0
    on_event: Callable[[str, Dict[str, Any]], None] = lambda name, fields: None
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
        )

    def engine(self, *items: Download, limits: Optional[Limits] = None) -> Downloads:
        """The engine as a run makes it. Stop it."""
        sources = Sources(rules=self.rules, secrets=self.secrets)
        return Downloads(items, limits=limits or Limits(), context=self.context, sources=sources)

    def fetch(self, *items: Download, limits: Optional[Limits] = None) -> Dict[str, Result]:
        """Run downloads to their end."""
        engine = self.engine(*items, limits=limits)
        try:
            engine.start()
            assert engine.wait(), f"not settled: {self.events[-5:]}"
        finally:
            engine.stop()
        return engine.results()

    def fetch_one(self, item: Download, limits: Optional[Limits] = None) -> Result:
        """Run one download to its end."""
        return self.fetch(item, limits=limits)[item.path]

    def preflight(self, *items: Download) -> Preflight:
        """Run the preflight only."""
        engine = self.engine(*items)
        try:
            return engine.preflight()
        finally:
            engine.stop()

    def named(self, event: str) -> List[Dict[str, Any]]:
        """The events ``download_<event>`` so far."""
        return [fields for fields in self.events if fields["event"] == f"download_{event}"]

    def names(self, item: str) -> List[str]:
        """What was said of *item*, without progress, in order."""
        names = [fields["event"][len("download_") :] for fields in self.events if fields.get("item") == item]
        return [name for name in names if name != "progress"]

    def path(self, item: str) -> Path:
        """Where *item* is."""
        return self.root / item

    def files(self) -> List[str]:
        """Every file of the workspace but the state, relative."""
        found = (str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())
        return sorted(name for name in found if name != "state.json")

    def _report(self, event: str, **fields: Any) -> None:
        with self._lock:
            self.events.append(dict(fields, event=event))
        self.on_event(event, fields)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A fresh workspace."""
    made = Bench(tmp_path / "workspace")
    made.root.mkdir()
    yield made
    made.cancelled.set()


@pytest.fixture
def server() -> Iterator[FileServer]:
    """An honest server on 127.0.0.1."""
    with FileServer() as made:
        yield made


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PEM file for https on every loopback name, good as CA file too."""
    directory = tmp_path_factory.mktemp("tls")
    return make_certificate(str(directory), "localhost", "127.0.0.1", "127.0.0.2", "::1")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests talk to loopback, whatever the environment says."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def quick(**changes: Any) -> ItemLimits:
    """Limits with which trouble is noticed within a second."""
    values: Dict[str, Any] = dict(stall=Stall(50 * 1024, 1.0), connect_s=2.0, lookup_s=3.0, **changes)
    return ItemLimits(**values)


def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.01)
