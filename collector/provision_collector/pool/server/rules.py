"""How one server treats its runs: what its operator chose, the same for every run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...instance import Instance
from ...run.spec import OutputsHere
from ..hooks import Hook


@dataclass(frozen=True)
class Rules:
    """How this server treats its runs."""

    state_dir: Path
    logs_dir: Path
    profiles: Path | None = None
    keys: Path | None = None
    """The folder of the private keys that a request may name; None: `keys` in the state directory."""
    uploads: Path | None = None
    """The folder below which the uploads of a request's profile lie; None: it may have none."""
    outputs: OutputsHere | None = None
    """Where outputs go; each run has a folder of its own there, by its id."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the server itself holds for profiles that ask for it."""
    uses_aws: bool = False
    """May this server's own AWS configuration open buckets for the profiles of clients?"""
    gone_check: tuple[str, ...] | None = None
    """The words of a command that says whether an instance is gone."""
    hooks: tuple[Hook, ...] = ()
    per_source_host: int | None = None
    """So many runs fetch from one source host at once; None: as many as there are."""
    watch_instances_s: float | None = None
    """Every so many seconds each instance is asked how it is, once its run is usable; None: only where an order wants it."""
    keep: int = 1000
    """So many finished runs are remembered."""
    keep_days: float | None = None
    """Those that ended longer ago are not; None: however long."""
    database: str | None = field(default=None, repr=False)
    """The address of the PostgreSQL database that several servers share; None: a file in the state directory."""
    watches: bool = True
    """This process watches runs; else it only answers, and others do."""
    dead_after_s: float = 10.0
    """A server that is not heard of for so long loses its runs to the others."""

    def outputs_of(self, run: str) -> OutputsHere | None:
        """Where the outputs of the run with this id go; None: nowhere."""
        return None if self.outputs is None else replace(self.outputs, folder=self.outputs.folder / run)

    @property
    def keys_dir(self) -> Path:
        """Where the keys lie that a request may name."""
        return self.keys if self.keys is not None else self.state_dir / "keys"

    def with_key_here(self, instance: Instance) -> Instance:
        """*instance* with the key of the same name in this server's folder, where another server's path is none here."""
        if instance.key is None:
            return instance
        here = self.keys_dir / instance.key.rpartition("/")[2]
        with suppress(OSError):
            if not Path(instance.key).exists() and here.is_file():
                return replace(instance, key=str(here))
        return instance
