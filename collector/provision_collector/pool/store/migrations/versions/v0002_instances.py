"""The instances that are watched come into the database; a server of the release before works on beside it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Boolean, Column, Double, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make their table, and the column of `runs` that the first tables did not have from the beginning."""
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("runs")}
    if "is_watched_after" not in there:
        op.add_column("runs", Column("is_watched_after", Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "instances",
        Column("instance", Text, primary_key=True),
        Column("run", Text, nullable=False),
        Column("kept", Text, nullable=False),
        Column("health", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("since_unix", Double, nullable=False),
        Column("owner", Text),
    )
    op.create_index("instances_by_run", "instances", ["run"])
    op.execute(sa.text("UPDATE meta SET value = '2' WHERE name = 'version'"))
