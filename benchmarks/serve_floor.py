"""The floor of `serve.py`: what asyncssh alone costs to receive the same frames from the same played instances.

    python benchmarks/serve_floor.py [--runs 200] [--seconds 20] [--rate 3]

One process opens a connection to each played run, takes its bytes and drops them: no frame is read, nothing is written.
Prints one JSON object with the processor's time per event, to stand beside `server_cpu_ms_per_event_while_all_tell`.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncssh
import serve

AT_ONCE = 20


class Dropped(asyncssh.SSHClientSession[bytes]):
    """Takes bytes, and forgets them."""

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        pass


async def follow(port: int, folder: Path, run: str, turns: asyncio.Semaphore, left: list[str]) -> None:
    """Start *run* on the played instance and follow it, as the server does; it is then no more of *left*."""
    async with turns:
        connection = await asyncssh.connect(
            "127.0.0.1", port, username=getpass.getuser(), client_keys=[str(folder / "key")],
            known_hosts=None, config=None,
        )  # fmt: skip
        head = {"arguments": ["start"]}
        order = {"run": run, "started_unix": int(time.time())}
        await connection.run("x", input=f"{json.dumps(head)}\n{json.dumps(order)}")
        files = [{"path": f"/{run}/{name}.log", "offset": 0} for name in ("core", "errors", "events")]
        channel, _ = await connection.create_session(Dropped, "x", encoding=None)
        channel.write(
            json.dumps({"nonce": "0" * 16, "workspace": f"/{run}", "files": files}).encode() + b"\n"
        )
    left.remove(run)
    await channel.wait_closed()


async def read_all(folder: Path, runs: int, port: int) -> None:
    """Follow every run; say so when all are followed."""
    turns = asyncio.Semaphore(AT_ONCE)
    left = [f"load{number}" for number in range(runs)]
    following = [asyncio.create_task(follow(port, folder, run, turns, left)) for run in tuple(left)]
    while left:
        await asyncio.sleep(0.2)
    (folder / "ready").touch()
    await asyncio.gather(*following)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=3.0, help="events a second and run")
    parser.add_argument("--reader", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.reader is not None:
        asyncio.run(read_all(words.reader, words.runs, words.port))
        return 0
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        serve.make_key(folder)
        about = ["--rate", str(words.rate), "--seconds", str(words.seconds)]
        puppet = [sys.executable, str(Path(__file__).with_name("serve.py")), "--puppet", name, *about]
        instances = subprocess.Popen(puppet)
        port = serve.wait_for(folder / "port")
        own = [sys.executable, __file__, "--reader", name, "--port", port, "--runs", str(words.runs)]
        reader = subprocess.Popen(own)
        try:
            end = time.monotonic() + 300
            while not (folder / "ready").exists() and time.monotonic() < end:
                time.sleep(0.1)
            (folder / "go").touch()
            cores = asyncio.run(serve.steady_cpu_s(reader.pid, words.seconds))
        finally:
            for child in (reader, instances):
                child.terminate()
                child.wait(20)
    per_event = round(1000 * cores / (words.runs * words.rate), 3)
    told = {"runs": words.runs, "events_per_s": round(words.runs * words.rate)}
    print(json.dumps({**told, "floor_cpu_ms_per_event": per_event, "load_before": round(load, 1)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
