"""Provision several instances at once and act on each verdict: the heart of a warm pool.

    python warm_pool.py PROFILE HOST:PORT [HOST:PORT …] --key PATH

Prints one line per instance when it becomes usable and one when its run has ended; the exit code is the worst.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from provision_collector import Instance, Profile, start


async def provision(instance: Instance, profile: Profile, workspace: str | None) -> int:
    """One instance, from order to verdict; returns the exit code that `provision up` would have had."""
    async with await start(instance, profile, workspace=workspace, labels={"pool": "example"}) as run:
        async for event in run.events():
            if event["event"] == "run_usable":
                print(f"{instance}: usable after {event['after_s']:.0f} s", flush=True)
        outcome = await run.outcome()
    print(f"{instance}: {outcome['verdict']}, next: {outcome['next']}", flush=True)
    return int(outcome["exit_code"])


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", help="a profile (YAML); `Profile.named` takes a built-in one")
    parser.add_argument("hosts", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--key", help="private key; else what your ssh configuration says")
    parser.add_argument("--workspace", help="the folder on the instances; else the profile's")
    words = parser.parse_args()
    profile = Profile.from_file(words.profile)
    instances = [Instance.parse(host, key=words.key) for host in words.hosts]
    codes = await asyncio.gather(*(provision(instance, profile, words.workspace) for instance in instances))
    return max(codes)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
