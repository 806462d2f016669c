"""What all tests share. Runs on Python 3.8 too: pytest and the standard library only."""

from __future__ import annotations

import signal

import pytest


def pytest_configure() -> None:
    """Listen to SIGINT, whatever the shell says: one that starts a command in the background has it ignored, and
    every program that a test starts and interrupts would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres():  # type: ignore[no-untyped-def]
    """A PostgreSQL cluster for as long as the tests run. Without one the test is skipped; in CI that is a failure."""
    from harness.postgres import Postgres

    cluster = Postgres()
    yield cluster
    cluster.close()
