"""A script on an instance that writes a log, rotates it as people do, and keeps its own record of what it wrote.

Run as a process of its own: `python log_writer.py LOG RECORD SEED STEP…`. The record is the concatenation of every
byte that ever was in the log, in order, and is written beside it: no reader's belief is in it. Steps:
`lines:N` `bytes:N` (one line of random bytes) `pause:S` `rename` `rename-late:S` (goes on writing to the old file for S
seconds) `rename-unlink` `copytruncate` `rewrite` (truncate and write more than there was, at once) `delete` `end:TEXT`
(a last line) `wait:PATH` (until that file exists) `mirrored:PATH` (until that file is as long as the record)
`compress` (every rotated file, as `gzip` does). `every:S` sets the pause between lines.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time

WAIT_S = 60.0


class Writer:
    """One process that writes."""

    def __init__(self, log: str, record: str, seed: int) -> None:
        self.path = log
        self.record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.rand = random.Random(seed)
        self.every_s = 0.0
        self.number = 0
        self.log = self.open()

    def open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def reopen(self) -> None:
        os.close(self.log)
        self.log = self.open()

    def write(self, data: bytes) -> None:
        os.write(self.log, data)
        os.write(self.record, data)

    def line(self) -> bytes:
        self.number += 1
        filler = self.rand.choice(["", "x" * 60, "größer ✅ 火", "\t", "y" * self.rand.randint(0, 300)])
        return f"{time.time_ns()} line {self.number} {filler}\n".encode()

    def do_every(self, seconds: str) -> None:
        self.every_s = float(seconds)

    def do_lines(self, count: str) -> None:
        for _ in range(int(count)):
            data = self.line()
            cut = self.rand.randint(0, len(data))  # lines come in pieces, also in the middle of a character
            self.write(data[:cut])
            self.write(data[cut:])
            if self.every_s:
                time.sleep(self.rand.uniform(0, 2 * self.every_s))

    def do_bytes(self, count: str) -> None:
        left = int(count)
        while left:
            self.write(self.rand.randbytes(min(left, 1 << 20)))
            left -= min(left, 1 << 20)
        self.write(b"\n")

    def do_pause(self, seconds: str) -> None:
        time.sleep(float(seconds))

    def do_wait(self, path: str) -> None:
        end = time.monotonic() + WAIT_S
        while not os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.01)

    def do_mirrored(self, path: str) -> None:
        end = time.monotonic() + WAIT_S
        while os.path.getsize(path) < os.fstat(self.record).st_size and time.monotonic() < end:
            time.sleep(0.005)

    def do_compress(self, _: str = "") -> None:
        subprocess.run(["gzip", *self.rotated()], check=True, timeout=WAIT_S)

    def rotated(self) -> list[str]:
        folder, name = os.path.split(self.path)
        return [
            os.path.join(folder, other)
            for other in os.listdir(folder)
            if re.fullmatch(re.escape(name) + r"\.\d+", other)
        ]

    def make_room(self) -> None:
        """Every rotated file becomes one older."""
        folder, name = os.path.split(self.path)
        found = [re.fullmatch(re.escape(name) + r"\.(\d+)(\.gz)?", other) for other in os.listdir(folder)]
        for old in sorted(filter(None, found), key=lambda match: -int(match[1])):
            new = f"{name}.{int(old[1]) + 1}{old[2] or ''}"
            os.rename(os.path.join(folder, old[0]), os.path.join(folder, new))

    def do_rename(self, _: str = "") -> None:
        self.make_room()
        os.rename(self.path, self.path + ".1")
        time.sleep(self.rand.uniform(0, 0.05))
        self.reopen()

    def do_rename_late(self, seconds: str) -> None:
        self.make_room()
        os.rename(self.path, self.path + ".1")
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600))
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            self.write(self.line())
            time.sleep(0.05)
        self.reopen()

    def do_rename_unlink(self, _: str = "") -> None:
        os.rename(self.path, self.path + ".1")
        os.unlink(self.path + ".1")
        self.reopen()

    def do_copytruncate(self, _: str = "") -> None:
        self.make_room()
        shutil.copyfile(self.path, self.path + ".1")
        os.truncate(self.path, 0)

    def do_rewrite(self, _: str = "") -> None:
        data = b"".join(self.line() for _ in range(20)) + b"z" * os.fstat(self.log).st_size + b"\n"
        os.truncate(self.path, 0)
        self.write(data)

    def do_delete(self, _: str = "") -> None:
        os.unlink(self.path)

    def do_end(self, text: str) -> None:
        self.write(text.encode() + b"\n")


def main(log: str, record: str, seed: str, *steps: str) -> None:
    writer = Writer(log, record, int(seed))
    for step in steps:
        verb, _, value = step.partition(":")
        getattr(writer, "do_" + verb.replace("-", "_"))(*([value] if value else []))


if __name__ == "__main__":
    main(*sys.argv[1:])
