"""What Alembic runs: the steps on the connection that `database.migrate` gives."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transaction_per_migration=True,
)
context.run_migrations()
