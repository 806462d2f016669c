"""The tables in which a server keeps its runs: the same in SQLite and in PostgreSQL.

`migrations/` makes them; a test compares. JSON stands as text, so that whatever an instance calls its items can be kept.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
)

VERSION = 2
"""Of the tables. A migration writes it into `meta`, beside `readable_by`, the oldest version of a server that can work with
its tables: a change that an older server can live with leaves that as it is."""

metadata = MetaData()

meta = Table(
    "meta", metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)  # fmt: skip

workers = Table(
    "workers", metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("seen", DateTime(timezone=True), nullable=False),
    Column("is_dead", Boolean, nullable=False, server_default=false()),
    Column("takes_runs", Boolean, nullable=False, server_default=false()),
    Column("public_key", LargeBinary, nullable=False),
)  # fmt: skip
"""Every server process that is there, or was. One that was declared dead gets a new id when it comes back."""

runs = Table(
    "runs", metadata,
    Column("rid", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("run", Text, nullable=False, unique=True),
    Column("day", Integer, nullable=False),
    Column("created_unix", Double, nullable=False),
    Column("request_hash", Text, nullable=False),
    Column("instance", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("secret_names", Text, nullable=False),
    Column("replaces", Boolean, nullable=False, server_default=false()),
    Column("is_watched_after", Boolean, nullable=False, server_default=false()),
    Column("joined", Text),
    Column("stem", Text),
    Column("home", Text),
    Column("record", Text),
    Column("is_stopping", Boolean, nullable=False, server_default=false()),
    Column("is_released", Boolean, nullable=False, server_default=false()),
    Column("state", Text, nullable=False),
    Column("verdict", Text),
    Column("ended_unix", Double),
    Column("summary", Text),
    Column("owner", Text),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Index("runs_by_time", "created_unix", "rid"),
    Index("runs_by_owner", "owner"),
    Index("runs_by_verdict", "verdict", "ended_unix"),
)  # fmt: skip

run_labels = Table(
    "run_labels", metadata,
    Column("rid", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Index("run_labels_by_value", "name", "value"),
)  # fmt: skip

events = Table(
    "events", metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("rid", BigInteger, primary_key=True, autoincrement=False),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (day)",
)  # fmt: skip
"""What was told of each run, by id from 1; `day` is the day on which the run began."""

snapshots = Table(
    "snapshots", metadata,
    Column("rid", BigInteger, primary_key=True, autoincrement=False),
    Column("last_id", BigInteger, nullable=False),
    Column("view", Text, nullable=False),
    Column("watched", Text),
)  # fmt: skip
"""The events of a run up to `last_id`, folded; and how far whoever watches it has read."""

mirrors = Table(
    "mirrors", metadata,
    Column("rid", BigInteger, primary_key=True, autoincrement=False),
    Column("file", Text, primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("position", Text, nullable=False),
    Column("tail", LargeBinary),
)  # fmt: skip
"""How far the mirrors of a run are: what another server needs to go on with them."""

chunks = Table(
    "chunks", metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("rid", BigInteger, primary_key=True, autoincrement=False),
    Column("file", Text, primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (day)",
)  # fmt: skip
"""The bytes of mirrored logs, where several servers share one database."""

deliveries = Table(
    "deliveries", metadata,
    Column("key", Text, primary_key=True),
    Column("run", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("is_settled", Boolean, nullable=False, server_default=false()),
    Column("owner", Text),
    Index("deliveries_by_owner", "is_settled", "owner"),
    Index("deliveries_by_run", "run"),
)  # fmt: skip

commands = Table(
    "commands", metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("rid", BigInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("commands_by_worker", "worker"),
)  # fmt: skip
"""Secrets on their way to the server that watches the run, readable by that process only."""

instances = Table(
    "instances", metadata,
    Column("instance", Text, primary_key=True),
    Column("run", Text, nullable=False),
    Column("kept", Text, nullable=False),
    Column("health", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("since_unix", Double, nullable=False),
    Column("owner", Text),
    Index("instances_by_run", "run"),
)  # fmt: skip
"""Those that are watched after their runs."""

host_keys = Table(
    "host_keys", metadata,
    Column("entry", Text, primary_key=True),
    Column("key", Text, primary_key=True),
)  # fmt: skip

scorecards = Table(
    "scorecards", metadata,
    Column("instance", Text, primary_key=True),
    Column("run", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("ended", Text, nullable=False),
    Column("entry", Text, nullable=False),
)  # fmt: skip
