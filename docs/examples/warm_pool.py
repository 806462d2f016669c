"""Keep several instances provisioned and act on each verdict: the heart of a warm pool.

    python warm_pool.py PROFILE HOST:PORT [HOST:PORT …] --key PATH [--want N]

The addresses stand for what a provider would rent out. So many of them as are wanted are brought up at once (all,
without --want); one that fails is replaced by the next. Prints one line per instance when it becomes usable and one
when its run has ended; the exit code is 0 when all that were wanted are usable, else that of the last failure.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import deque

from provision_collector import Instance, Profile, start

ANOTHER_HELPS = ("replace_instance", "retry")
"""With any other `next`, a second instance would fail as the first did."""


class Pool:
    """Instances for rent, and a profile for those that are taken."""

    def __init__(self, profile: Profile, instances: list[Instance], workspace: str | None) -> None:
        self._profile = profile
        self._for_rent = deque(instances)
        self._workspace = workspace

    async def slot(self) -> int:
        """Bring up one instance after the other until one can be used; returns the last one's exit code."""
        code = 1
        while self._for_rent:
            instance = self._for_rent.popleft()
            outcome = await self._provision(instance)
            code = int(outcome["exit_code"])
            if code in (0, 5) or outcome["next"] not in ANOTHER_HELPS:
                break
        return code

    async def _provision(self, instance: Instance) -> dict[str, object]:
        order = start(instance, self._profile, workspace=self._workspace, labels={"pool": "example"})
        async with await order as run:
            async for event in run.events():
                if event["event"] == "run_usable":
                    print(f"{instance}: usable after {event['after_s']:.0f} s", flush=True)
            outcome = await run.outcome()
        print(f"{instance}: {outcome['verdict']}, next: {outcome['next']}", flush=True)
        return outcome


async def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("profile", help="a profile (YAML); `Profile.named` takes a built-in one")
    parser.add_argument("hosts", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--key", help="private key; else what your ssh configuration says")
    parser.add_argument("--workspace", help="the folder on the instances; else the profile's")
    parser.add_argument("--want", type=int, help="how many usable instances; else one per address")
    parser.add_argument("--boot-grace", type=float, default=120.0, metavar="SECONDS")
    words = parser.parse_args()
    options = {"key": words.key, "boot_grace_s": words.boot_grace}
    instances = [Instance.parse(host, **options) for host in words.hosts]
    pool = Pool(Profile.from_file(words.profile), instances, words.workspace)
    codes = await asyncio.gather(*(pool.slot() for _ in range(words.want or len(instances))))
    return next((code for code in codes if code not in (0, 5)), 0)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
