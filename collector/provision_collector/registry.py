"""The runs that this machine knows: where their mirrors lie and how to reach their instances.

It only finds runs. What a run is doing, the instance knows; what has arrived, the mirrors know.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs
from provision_agent import protocol

from .errors import UsageError
from .instance import Instance


@dataclass(frozen=True)
class RunFiles:
    """The local files of one run; `stem` is ``<logs-dir>/provision_<run-id>_<unix time of its start>``."""

    stem: str

    @classmethod
    def of(cls, logs_dir: Path, run: str, started_unix: int) -> RunFiles:
        """The files of *run* under *logs_dir*."""
        if not re.fullmatch(protocol.RUN_ID_PATTERN, run):
            raise UsageError(
                f"`{run}` is not a run id"
            )  # it may come from the instance: it must not leave the folder
        return cls(str(logs_dir.absolute() / f"provision_{run}_{started_unix}"))

    @property
    def core(self) -> Path:
        return Path(self.stem + ".log")

    @property
    def errors(self) -> Path:
        return Path(self.stem + ".errors.log")

    @property
    def events(self) -> Path:
        return Path(self.stem + ".events.jsonl")

    @property
    def collector(self) -> Path:
        return Path(self.stem + ".collector.jsonl")

    @property
    def state(self) -> Path:
        return Path(self.stem + ".state.json")

    def all(self) -> list[Path]:
        """Every file that may exist."""
        return [self.core, self.errors, self.events, self.collector, self.state]


@dataclass(frozen=True)
class RunRecord:
    """What is remembered of one run."""

    run: str
    stem: str
    started_unix: int
    instance: dict[str, Any]
    workspace: str = ""
    profile: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    verdict: str | None = None
    format: int = protocol.FORMAT

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.stem)

    def to_instance(self) -> Instance:
        """The instance as it was reached."""
        known = {f.name for f in fields(Instance)}
        return Instance(**{name: value for name, value in self.instance.items() if name in known})


def state_directory() -> Path:
    """``$XDG_STATE_HOME/provision``."""
    return platformdirs.user_state_path("provision")


def remember(record: RunRecord) -> None:
    """Write or replace the record of a run, as one step."""
    folder = state_directory() / "runs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / f"{record.run}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(asdict(record), indent=1))
    temporary.chmod(0o600)
    temporary.replace(folder / f"{record.run}.json")


def record_of(instance: Instance) -> dict[str, Any]:
    """How to reach *instance* again from any folder, for a `RunRecord`."""
    values = asdict(instance)
    for name in ("key", "ssh_config", "known_hosts"):
        if values[name] is not None:
            values[name] = str(Path(values[name]).expanduser().absolute())
    return values


def find(run: str) -> RunRecord | None:
    """The record of *run*; None when this machine does not know it."""
    if not re.fullmatch(protocol.RUN_ID_PATTERN, run):
        raise UsageError(f"`{run}` is not a run id: letters, digits, `.`, `_`, `-`; 64 at most")
    return _read(state_directory() / "runs" / f"{run}.json")


def known(run: str) -> RunRecord:
    """The record of *run*. Raises `UsageError` when this machine does not know it."""
    record = find(run)
    if record is None:
        raise UsageError(
            f"this machine knows no run `{run}`", hint="`provision status` lists the runs; or give `--host`"
        )
    return record


def all_runs() -> list[RunRecord]:
    """Every run that this machine knows, newest first."""
    return sorted(_records(), key=lambda record: record.started_unix, reverse=True)


def forget(run: str) -> None:
    """Remove the record of *run*."""
    (state_directory() / "runs" / f"{run}.json").unlink(missing_ok=True)


def _records() -> Iterator[RunRecord]:
    for path in (state_directory() / "runs").glob("*.json"):
        record = _read(path)
        if record is not None:
            yield record


def _read(path: Path) -> RunRecord | None:
    try:
        data = json.loads(path.read_text())
        names = {f.name for f in fields(RunRecord)}
        return RunRecord(**{name: value for name, value in data.items() if name in names})
    except (OSError, ValueError, TypeError):
        return None
