"""What a command on the instance may make this side hold in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh
from harness.hostile import HostileInstance
from provision_collector.instance.channel import WINDOW_BYTES, Channel
from provision_collector.instance.connection import connect

BLOCK_BYTES = 1 << 16
ROUNDS = 40


class Talker(HostileInstance):
    """Sends without end, as fast as it may."""

    sent_bytes = 0

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            while True:
                process.stdout.write(b"x" * BLOCK_BYTES)
                self.sent_bytes += BLOCK_BYTES
                await process.stdout.drain()
                await asyncio.sleep(0)
        except (asyncssh.Error, OSError):
            pass  # the other side has left


async def test_a_slow_reader_holds_a_few_windows_however_often_it_pauses(tmp_path: Path) -> None:
    async with Talker(tmp_path / "instance") as talker:
        connection = await connect(talker.instance)
        waiting: list[bytes] = []
        taken_bytes = 0
        channel: Channel | None = None

        def take(data: bytes) -> None:
            waiting.append(data)
            if channel is not None:
                channel.pause()  # after each piece: it is a very slow reader

        channel = await Channel.open(connection, "talk", on_bytes=take)
        try:
            for _ in range(ROUNDS):
                while not waiting:
                    await asyncio.sleep(0.01)
                taken_bytes += sum(map(len, waiting))
                waiting.clear()
                before = talker.sent_bytes
                channel.resume()
                for _ in range(20):  # it may send on as long as it can
                    await asyncio.sleep(0.005)
                    if talker.sent_bytes == before:
                        break
                    before = talker.sent_bytes
        finally:
            channel.abort()
            connection.abort()

    assert taken_bytes > ROUNDS * BLOCK_BYTES // 4
    assert talker.sent_bytes - taken_bytes < 5 * WINDOW_BYTES, "in the windows, in the sockets, here"
