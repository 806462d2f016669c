"""The floor: threads that receive and write, and one hasher per file that reads back. What an engine costs above it is its own.

It retries nothing, checks nothing but the hash, and keeps no journal. Every file is divided in advance among its
connections, so the hash waits for each in turn.

    python benchmarks/downloads_floor.py '{"http://127.0.0.1:8000/0.bin": "<sha256>"}' [connections]
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit

BUFFER_BYTES = 1 << 20
CONNECTIONS = 64
LOOK_AGAIN_S = 0.01


class File:
    """One file: its parts, and how far each has come."""

    def __init__(self, url: str, sha256: str, connections: int) -> None:
        self.url, self.sha256 = url, sha256
        self.path = urlsplit(url).path.rpartition("/")[2]
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        head = request(url, "bytes=0-0")
        self.size = int((head.headers["Content-Range"] or "").rpartition("/")[2])
        head.close()
        step = max(1, -(-self.size // connections))
        self.starts = list(range(0, self.size, step))
        self.landed = list(self.starts)
        self.ends = [min(start + step, self.size) for start in self.starts]

    def fetch(self, part: int) -> None:
        at, end = self.starts[part], self.ends[part]
        answer = request(self.url, f"bytes={at}-{end - 1}")
        view = memoryview(bytearray(BUFFER_BYTES))
        while at < end:
            count = answer.readinto(view[: end - at])
            if not count:
                raise SystemExit(f"{self.url} ended early")
            os.pwrite(self.descriptor, view[:count], at)
            at += count
            self.landed[part] = at

    def follow(self) -> None:
        digest, at, part = hashlib.sha256(), 0, 0
        view = memoryview(bytearray(BUFFER_BYTES))
        while at < self.size:
            while at == self.ends[part]:
                part += 1
            ready = self.landed[part] - at
            if ready < min(BUFFER_BYTES, self.ends[part] - at):
                time.sleep(LOOK_AGAIN_S)
                continue
            count = os.preadv(self.descriptor, [view[:ready]], at)
            digest.update(view[:count])
            at += count
        if digest.hexdigest() != self.sha256:
            raise SystemExit(f"{self.url} did not arrive right")


def request(url: str, span: str) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.request("GET", parts.path, headers={"Range": span})
    answer = connection.getresponse()
    if answer.status != 206:
        raise SystemExit(f"{url} answered {answer.status}")
    return answer


def main() -> None:
    wanted = json.loads(sys.argv[1])
    connections = int(sys.argv[2]) if len(sys.argv) > 2 else CONNECTIONS
    share = max(1, connections // len(wanted))
    files = [File(url, sha256, share) for url, sha256 in wanted.items()]
    errors: list[BaseException] = []
    threading.excepthook = lambda found: errors.append(found.exc_value or SystemExit("it failed"))
    threads = [
        threading.Thread(target=file.fetch, args=(part,), daemon=True)
        for file in files
        for part in range(len(file.starts))
    ]
    threads += [threading.Thread(target=file.follow, daemon=True) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive() and not errors:
            thread.join(0.1)
    if errors:
        sys.exit(str(errors[0]))


if __name__ == "__main__":
    main()
