"""The agent of an earlier release on an instance of today: begin a run with it, as its own collector did."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_parts import HostLimits
from provision_collector.demo.instance import EmbeddedInstance

FORMAT_1 = Path(__file__).with_name("agents") / "format-1.pyz"


def as_in_format_1(plan: Plan) -> dict[str, Any]:
    """*plan* as the collector of format 1 wrote it: with the limits of the hosts that were built in then."""
    built_in = {"civitai.com": HostLimits(files=1), "dropbox.com": HostLimits(connections=1)}
    limits = replace(plan.limits, hosts={**built_in, **plan.limits.hosts})
    return {**replace(plan, limits=limits).to_json(), "format": 1}


def begin(instance: EmbeddedInstance, plan: Plan, run: str) -> Path:
    """Begin *run* of *plan* on *instance* with the agent of format 1; returns where that agent lies."""
    folder = instance.workspace / ".provision/agent"
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / ("1" * 64 + ".pyz")
    stored.write_bytes(FORMAT_1.read_bytes())
    order = {
        "run": run,
        "plan": as_in_format_1(plan),
        "secrets": {},
        "labels": {"by": "format 1"},
        "started_unix": 5,
        "replace": False,
        "kill_holders": False,
    }
    done = subprocess.run(
        ["python3", "-I", "-S", str(stored), "start"],
        input=json.dumps(order).encode(),
        env={"HOME": str(instance.home), "PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        timeout=60,
    )
    answer = json.loads(done.stdout.partition(b"provision-answer ")[2])
    assert (answer["format"], answer["state"]) == (1, "started"), answer
    return stored
