"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, DateTime, Double, Integer, LargeBinary, Text

revision = "0001"
down_revision = None

_KEY = BigInteger().with_variant(Integer, "sqlite")
_NO = sa.false()


def upgrade() -> None:
    """Make them."""
    _meta()
    _runs()
    _streams()
    _owed()


def _meta() -> None:
    meta = op.create_table(
        "meta",
        Column("name", Text, primary_key=True),
        Column("value", Text, nullable=False),
    )
    op.bulk_insert(meta, [{"name": "version", "value": "1"}, {"name": "readable_by", "value": "1"}])
    op.create_table(
        "workers",
        Column("id", Text, primary_key=True),
        Column("name", Text, nullable=False),
        Column("seen", DateTime(timezone=True), nullable=False),
        Column("is_dead", Boolean, nullable=False, server_default=_NO),
        Column("takes_runs", Boolean, nullable=False, server_default=_NO),
        Column("public_key", LargeBinary, nullable=False),
    )


def _runs() -> None:
    op.create_table(
        "runs",
        Column("rid", _KEY, primary_key=True),
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
        Column("replaces", Boolean, nullable=False, server_default=_NO),
        Column("is_watched_after", Boolean, nullable=False, server_default=_NO),
        Column("joined", Text),
        Column("stem", Text),
        Column("home", Text),
        Column("record", Text),
        Column("is_stopping", Boolean, nullable=False, server_default=_NO),
        Column("is_released", Boolean, nullable=False, server_default=_NO),
        Column("state", Text, nullable=False),
        Column("verdict", Text),
        Column("ended_unix", Double),
        Column("summary", Text),
        Column("owner", Text),
        Column("epoch", Integer, nullable=False, server_default="0"),
    )
    op.create_index("runs_by_time", "runs", ["created_unix", "rid"])
    op.create_index("runs_by_owner", "runs", ["owner"])
    op.create_index("runs_by_verdict", "runs", ["verdict", "ended_unix"])
    op.create_table(
        "run_labels",
        Column("rid", BigInteger, primary_key=True, autoincrement=False),
        Column("name", Text, primary_key=True),
        Column("value", Text, nullable=False),
    )
    op.create_index("run_labels_by_value", "run_labels", ["name", "value"])


def _streams() -> None:
    op.create_table(
        "events",
        Column("day", Integer, primary_key=True, autoincrement=False),
        Column("rid", BigInteger, primary_key=True, autoincrement=False),
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        Column("body", LargeBinary, nullable=False),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (day)",
    )
    op.create_table(
        "snapshots",
        Column("rid", BigInteger, primary_key=True, autoincrement=False),
        Column("last_id", BigInteger, nullable=False),
        Column("view", Text, nullable=False),
        Column("watched", Text),
    )
    op.create_table(
        "mirrors",
        Column("rid", BigInteger, primary_key=True, autoincrement=False),
        Column("file", Text, primary_key=True),
        Column("length", BigInteger, nullable=False),
        Column("position", Text, nullable=False),
        Column("tail", LargeBinary),
    )
    op.create_table(
        "chunks",
        Column("day", Integer, primary_key=True, autoincrement=False),
        Column("rid", BigInteger, primary_key=True, autoincrement=False),
        Column("file", Text, primary_key=True),
        Column("start", BigInteger, primary_key=True, autoincrement=False),
        Column("data", LargeBinary, nullable=False),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (day)",
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in ("events", "chunks"):
            op.execute(f"CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT")
        op.execute("ALTER TABLE chunks ALTER COLUMN data SET STORAGE EXTERNAL")


def _owed() -> None:
    op.create_table(
        "deliveries",
        Column("key", Text, primary_key=True),
        Column("run", Text, nullable=False),
        Column("body", Text, nullable=False),
        Column("attempts", Integer, nullable=False, server_default="0"),
        Column("is_settled", Boolean, nullable=False, server_default=_NO),
        Column("owner", Text),
    )
    op.create_index("deliveries_by_owner", "deliveries", ["is_settled", "owner"])
    op.create_index("deliveries_by_run", "deliveries", ["run"])
    op.create_table(
        "commands",
        Column("id", _KEY, primary_key=True),
        Column("rid", BigInteger, nullable=False),
        Column("worker", Text, nullable=False),
        Column("sealed", LargeBinary, nullable=False),
    )
    op.create_index("commands_by_worker", "commands", ["worker"])
    op.create_table(
        "host_keys",
        Column("entry", Text, primary_key=True),
        Column("key", Text, primary_key=True),
    )
    op.create_table(
        "scorecards",
        Column("instance", Text, primary_key=True),
        Column("run", Text, primary_key=True),
        Column("host", Text, nullable=False),
        Column("ended", Text, nullable=False),
        Column("entry", Text, nullable=False),
    )
