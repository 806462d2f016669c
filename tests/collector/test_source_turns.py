"""Waves: so many runs at one source host at a time, counted from their plans."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from provision_agent.contract.plan import Download, Plan
from provision_collector.pool.source_turns import SourceTurns, Turn, hosts_of


def plan(*urls: str) -> Plan:
    return Plan(name="p", downloads=tuple(Download(url=url, path=f"{n}.bin") for n, url in enumerate(urls)))


HUB, CIVITAI = plan("hf://o/r/a.bin"), plan("civitai:1")
BOTH = plan("hf://o/r/a.bin", "https://civitai.com/api/download/models/1")


class Waiting:
    """Runs that wait, by name; `going` is who has begun, in order."""

    def __init__(self, most: int) -> None:
        self.turns = SourceTurns(most)
        self.going: list[str] = []
        self.of: dict[str, Turn] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, wanted: Plan) -> None:
        self.of[name] = self.turns.turn(wanted)
        self.tasks[name] = asyncio.create_task(self._wait(name))
        await self.settle()

    async def _wait(self, name: str) -> None:
        await self.of[name].wait()
        self.going.append(name)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self, names: Iterable[str]) -> None:
        for name in names:
            self.of[name].end()
        await self.settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks[name], return_exceptions=True)
        await self.settle()


async def test_so_many_go_at_once_and_the_next_as_downloads_end() -> None:
    waiting = Waiting(2)
    for name in "abcd":
        await waiting.ask(name, HUB)
    assert waiting.going == ["a", "b"]
    assert waiting.of["c"].waits_for == ["huggingface.co"]

    waiting.of["b"].note({"event": "step_finished", "step": "packages"})
    waiting.of["b"].note({"event": "step_finished", "step": "downloads"})
    await waiting.settle()
    assert waiting.going == ["a", "b", "c"]
    await waiting.end("bb")
    assert waiting.going == ["a", "b", "c"], "what was given back is not given back twice"
    await waiting.end("ac")
    assert waiting.going == ["a", "b", "c", "d"]


async def test_other_hosts_are_not_waited_for_and_nobody_is_overtaken_at_his_own() -> None:
    waiting = Waiting(1)
    await waiting.ask("hub", HUB)
    await waiting.ask("both", BOTH)
    await waiting.ask("civitai", CIVITAI)
    await waiting.ask("nothing", plan("file:///a"))
    assert waiting.going == ["hub", "nothing"], "`both` came before `civitai` and wants the same host"

    await waiting.end(["hub"])
    assert waiting.going == ["hub", "nothing", "both"]
    await waiting.end(["both"])
    assert waiting.going[-1] == "civitai"


async def test_who_gives_up_holds_nobody_back() -> None:
    waiting = Waiting(1)
    for name, wanted in (("a", HUB), ("b", BOTH), ("c", CIVITAI)):
        await waiting.ask(name, wanted)
    await waiting.cancel("b")
    assert waiting.going == ["a", "c"]

    await waiting.ask("d", HUB)
    waiting.of["a"].end()
    await waiting.cancel("d")  # perhaps just when its turn had come
    await waiting.ask("e", HUB)
    assert waiting.going[-1] == "e"


async def test_without_a_limit_nobody_waits() -> None:
    turn = SourceTurns(None).turn(HUB)
    await asyncio.wait_for(turn.wait(), 1)
    assert turn.waits_for == []


def test_hosts_are_those_that_downloads_name_first() -> None:
    found = hosts_of(plan("hf://o/r/a", "github://o/r@v1/a", "https://h.test:8/a", "file:///a"))

    assert found == {"huggingface.co", "github.com", "h.test"}
