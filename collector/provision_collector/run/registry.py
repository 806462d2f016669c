"""The runs that this machine knows: where their mirrors lie and how to reach their instances.

It only finds runs. What a run is doing, the instance knows; what has arrived, the mirrors know.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import platformdirs
from provision_agent.contract import version
from provision_agent.contract.parsing import ParseError, parse, read_object
from provision_agent.contract.plan_jobs import job_file

from ..errors import UsageError
from ..instance import Instance
from ..storage import create_atomically, private_folder, write_atomically
from .spec import Known

MAX_RECORD_BYTES = 4 << 20


@dataclass(frozen=True)
class RunFiles:
    """The local files of one run; `stem` is ``<logs-dir>/provision_<run-id>_<unix time of its start>``."""

    stem: str

    @classmethod
    def of(cls, logs_dir: Path, run: str, started_unix: int) -> RunFiles:
        """The files of *run* under *logs_dir*.

        Args:
            logs_dir: The folder of the mirrors.
            run: The run's id.
            started_unix: When it was accepted, in seconds since 1970: two runs of one id have files of their own.

        Raises:
            UsageError: *run* is no id. It may come from an instance, and must not leave the folder.
        """
        if not re.fullmatch(version.RUN_ID_PATTERN, run):
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

    def job(self, name: str) -> Path:
        """The mirror of the log of the job *name*."""
        return self.log(job_file(name))

    def log(self, name: str) -> Path:
        """The mirror that `logs` calls *name*, whether it is there or not."""
        named = {"core": self.core, "errors": self.errors, "events": self.events}
        return named.get(name) or Path(f"{self.stem}.{name}.log")

    def _jobs(self) -> dict[str, Path]:
        """The mirrors of the logs of jobs that are there, by ``job-NAME``."""
        stem = Path(self.stem)
        found = sorted(stem.parent.glob(f"{glob.escape(stem.name)}.job-*.log"))
        return {path.name[len(stem.name) + 1 : -len(".log")]: path for path in found}

    def logs(self) -> dict[str, str]:
        """The mirrors that are there, by ``core``, ``errors``, ``events`` and, of a job's log, ``job-NAME``."""
        paths = {"core": self.core, "errors": self.errors, "events": self.events, **self._jobs()}
        return {name: str(path) for name, path in paths.items() if path.exists()}

    def all(self) -> list[Path]:
        """Every file that may exist."""
        return [self.core, self.errors, self.events, self.collector, self.state, *self._jobs().values()]


@dataclass(frozen=True)
class RunRecord:
    """What is remembered of one run."""

    run: str
    stem: str
    started_unix: int
    instance: dict[str, object]
    workspace: str = ""
    profile: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    verdict: str | None = None
    known: dict[str, object] | None = None
    """What this side knew of the run when it started it (`order.Known`); None for a run of somebody else, or of an
    earlier version."""
    is_named_here: bool = True
    """This side chose the run's id; else an instance said it."""
    format: int = version.FORMAT

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.stem)

    def what_is_known(self) -> Known | None:
        """`known`, read; None when there is nothing, or nothing that can be read."""
        try:
            return None if self.known is None else Known.from_json(self.known)
        except ParseError:
            return None

    def is_of(self, instance: Instance) -> bool:
        """Whether the run is one of *instance*: the same address and login, or the same instance id."""
        return identity_of(self.to_instance()) == identity_of(instance)

    def to_instance(self) -> Instance:
        """The instance as it was reached."""
        return parse(Instance, self.instance, "instance")


def state_directory() -> Path:
    """``$XDG_STATE_HOME/provision``."""
    return platformdirs.user_state_path("provision")


def identity_of(instance: Instance) -> str:
    """What tells one instance from another: its id if it was given one, else address and login.

    The login counts, for there are gateways that lead each login to a machine of its own.
    """
    if instance.instance_id is not None:
        return f"id {instance.instance_id}"
    return f"{instance.user or 'root'}@{instance.host} {instance.port or 22}"


def remember(record: RunRecord) -> None:
    """Write or replace the record of a run, as one step; never that of another instance's run of the same id."""
    private_folder(state_directory() / "runs")
    place = _place_of(record)
    if _read(place) == record:
        return
    data = json.dumps(asdict(record), indent=1)
    if not create_atomically(place, data):  # of two at once one is first; the other sees it now
        write_atomically(_place_of(record), data)


def record_of(instance: Instance) -> dict[str, object]:
    """How to reach *instance* again from any folder, for a `RunRecord`."""
    values: dict[str, object] = {**asdict(instance), "ssh_options": list(instance.ssh_options)}
    for name in ("key", "ssh_config", "known_hosts"):
        if values[name] is not None and values[name] != "none":
            values[name] = str(Path(str(values[name])).expanduser().absolute())
    return values


_claimed: dict[str, str] = {}
"""Which instance's run this process writes to a stem, by the stem."""
_claiming = threading.Lock()


def claim(stem: str, instance: Instance) -> bool:
    """Take *stem* for the files of a run of *instance*; False when this process writes another instance's there."""
    with _claiming:
        return _claimed.setdefault(stem, identity_of(instance)) == identity_of(instance)


def find(run: str, instance: Instance | None = None) -> RunRecord | None:
    """The record of *run*; None when this machine does not know it.

    Where several instances have a run of this id, the newest whose id was chosen here comes first: what an instance
    calls its run never hides one of those.

    Args:
        run: The run's id.
        instance: Only a run on this one; None: on any.
    """
    records = all_of(run)
    if instance is not None:
        records = [record for record in records if record.is_of(instance)]
    return max(records, key=lambda record: (record.is_named_here, record.started_unix), default=None)


def all_of(run: str) -> list[RunRecord]:
    """Every record of a run with the id *run*: one per instance that has such a run."""
    if not re.fullmatch(version.RUN_ID_PATTERN, run):
        raise UsageError(f"`{run}` is not a run id: letters, digits, `.`, `_`, `-`; 64 at most")
    folder = state_directory() / "runs"
    found = [_read(path) for path in (folder / f"{run}.json", *folder.glob(f"{run}@*.json"))]
    return [record for record in found if record is not None]


def known(run: str, *, hint: str = "`provision status` lists the runs; or give `--host`") -> RunRecord:
    """The record of *run*.

    Args:
        run: Its id.
        hint: What to type next where there is none.

    Raises:
        UsageError: this machine does not know it; a run with nearly that id is named.
    """
    record = find(run)
    if record is None:
        from ..profile.variables import suggestion  # it takes a while, and is seldom needed

        near = suggestion(run, frozenset(each.run for each in all_runs()))
        raise UsageError(f"this machine knows no run `{run}`{near}", hint=hint)
    return record


def all_runs() -> list[RunRecord]:
    """Every run that this machine knows, newest first."""
    return sorted(_records(), key=lambda record: record.started_unix, reverse=True)


def forget(record: RunRecord) -> None:
    """Remove *record*."""
    _place_of(record).unlink(missing_ok=True)


def _place_of(record: RunRecord) -> Path:
    """The file of *record*: the one of its run id, unless another instance's run has that."""
    folder = state_directory() / "runs"
    plain = folder / f"{record.run}.json"
    own = identity_of(record.to_instance())
    there = _read(plain)
    if there is None or identity_of(there.to_instance()) == own:
        return plain
    return folder / f"{record.run}@{hashlib.sha256(own.encode()).hexdigest()[:12]}.json"


def _records() -> Iterator[RunRecord]:
    for path in (state_directory() / "runs").glob("*.json"):
        record = _read(path)
        if record is not None:
            yield record


def _read(path: Path) -> RunRecord | None:
    try:
        return parse(RunRecord, read_object(path.read_bytes(), max_bytes=MAX_RECORD_BYTES, what="a record"))
    except (OSError, ParseError):
        return None
