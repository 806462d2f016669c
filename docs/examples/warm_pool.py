"""A warm pool with the library: keeps N instances usable, replaces those that fail, lets go of those that are gone.

    python warm_pool.py PROFILE HOST:PORT [HOST:PORT …] --key PATH [--want N]

The addresses stand for what a provider would rent out: put your provider's calls into `Provider`. Prints one line per
change; ends with 1 when it runs out of instances, 2 when nothing but a person helps.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import deque

from provision_collector import Instance, Profile, Run, start

ASK_EVERY_S = 1.0
MISSES = 3
"""An instance that answers so many times in a row no more is gone."""
HOPELESS = ("fix_profile", "fix_credentials", "report_bug")
"""With one of these as `next`, another instance would fail as this one did."""


class PoolError(Exception):
    """The pool cannot go on; `code` is the exit code."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code


class Provider:
    """What a provider of instances does; this one has a list."""

    def __init__(self, instances: list[Instance]) -> None:
        self._for_rent = deque(instances)

    async def rent(self) -> Instance:
        if not self._for_rent:
            raise PoolError("there are no more instances for rent", 1)
        return self._for_rent.popleft()

    async def is_alive(self, instance: Instance) -> bool:
        try:
            async with asyncio.timeout(5):
                _, writer = await asyncio.open_connection(instance.host, instance.port or 22)
        except OSError:
            return False
        writer.close()
        return True

    async def destroy(self, instance: Instance) -> None:
        print(f"{instance}: given back", flush=True)


class Pool:
    """So many instances with one profile on them."""

    def __init__(self, provider: Provider, profile: Profile, workspace: str | None) -> None:
        self._provider = provider
        self._profile = profile
        self._workspace = workspace

    async def slot(self) -> None:
        """Have one usable instance after the other."""
        while True:
            instance = await self._provider.rent()
            for _ in range(3):
                todo = await self._keep(instance)
                if todo != "retry":
                    break
            await self._provider.destroy(instance)
            if todo in HOPELESS:
                raise PoolError(f"another instance would fail alike: {todo}", 2)

    async def _keep(self, instance: Instance) -> str:
        """Bring one instance up and keep it until it is lost; returns what to do next."""
        order = start(instance, self._profile, workspace=self._workspace, labels={"pool": "example"})
        async with await order as run:
            gone = asyncio.create_task(self._leave_when_gone(instance, run))
            try:
                async for event in run.events():
                    if event["event"] == "run_usable":
                        print(f"{instance}: usable after {event['after_s']:.0f} s", flush=True)
                outcome = await run.outcome()
                print(f"{instance}: {outcome['verdict']}, next: {outcome['next']}", flush=True)
                if outcome["exit_code"] not in (0, 5):
                    return str(outcome["next"])
                await gone  # provisioned and in use, until the provider takes it away
                print(f"{instance}: gone", flush=True)
                return "replace_instance"
            finally:
                gone.cancel()

    async def _leave_when_gone(self, instance: Instance, run: Run) -> None:
        """End the watching with the instance; a run that is over already is left as it is."""
        has_lived, misses = False, 0
        while not has_lived or misses < MISSES:
            await asyncio.sleep(ASK_EVERY_S)
            lives = await self._provider.is_alive(instance)
            has_lived = has_lived or lives
            misses = 0 if lives else misses + 1
        await run.leave("instance-gone", 15)


async def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("profile", help="a profile (YAML); `Profile.named` takes a built-in one")
    parser.add_argument("hosts", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--key", help="private key; else what your ssh configuration says")
    parser.add_argument("--workspace", help="the folder on the instances; else the profile's")
    parser.add_argument("--want", type=int, default=1, help="how many usable instances")
    parser.add_argument("--boot-grace", type=float, default=120.0, metavar="SECONDS")
    words = parser.parse_args()
    options = {"key": words.key, "boot_grace_s": words.boot_grace}
    provider = Provider([Instance.parse(host, **options) for host in words.hosts])
    pool = Pool(provider, Profile.from_file(words.profile), words.workspace)
    slots = [asyncio.create_task(pool.slot()) for _ in range(words.want)]
    try:
        await asyncio.gather(*slots)
    except PoolError as error:
        print(error, file=sys.stderr)
        return error.code
    finally:
        for slot in slots:
            slot.cancel()
        await asyncio.gather(*slots, return_exceptions=True)  # runs are left, and go on
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
