"""A throwaway PostgreSQL cluster of the distribution's own server: made in a second, killed and restarted at will."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from provision_collector.demo.instance import free_port


def binaries() -> Path | None:
    """Where the newest server's programs are; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    here = shutil.which("initdb")
    return Path(here).parent if here else None


class Postgres:
    """One cluster in a folder of its own, on a free port of loopback; it does not run as root, so another user runs it."""

    def __init__(self, *, is_durable: bool = False) -> None:
        programs = binaries()
        if programs is None:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
                "there is no PostgreSQL on this machine"
            )
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(self._folder, entry.pw_uid, entry.pw_gid)
        self.data = self._folder / "data"
        self._run(
            "initdb",
            "-D",
            str(self.data),
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        )
        self.port = free_port()
        (self.data / "postgresql.auto.conf").write_text(
            f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{self._folder}'\n"
            f"fsync = {'on' if is_durable else 'off'}\nmax_connections = 200\n"
        )
        self.start()

    def start(self) -> None:
        self._control("start", "-l", str(self._folder / "log"))

    def restart(self, mode: str = "immediate") -> None:
        """As after a crash of the database: every connection breaks, nothing that was committed is lost."""
        self._control("restart", "-m", mode, "-l", str(self._folder / "log"))

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def _control(self, *words: str) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-s", *words)

    def database(self) -> str:
        """The address of a new, empty database."""
        name = f"t_{secrets.token_hex(6)}"
        self.sql(f'CREATE DATABASE "{name}"', "postgres")
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def sql(self, command: str, database: str) -> str:
        """What `psql` prints for *command*; *database* is a name or an address."""
        words = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", command]
        if "://" in database:
            return self._run("psql", *words, database)
        return self._run("psql", *words, "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", database)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *words: str) -> str:
        done = subprocess.run(
            [str(self._programs / program), *words],
            user=self._user,
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self._folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "psql" else subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "psql" else subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            log = self._folder / "log"
            raise AssertionError(f"{program}: {done.stderr!r} {log.read_text() if log.exists() else ''}")
        return (done.stdout or b"").decode().strip()
