"""What is written down of a new run, and whether a request means one that was begun before."""

from __future__ import annotations

from provision_agent.contract.parsing import parse, to_json

from ...errors import ProvisionError
from ...instance import Instance
from ...run import registry
from ...run.spec import new_run_id
from ..store.rows import Row
from .orders import Accepted, RunRequest


class ConflictError(ProvisionError):
    """The run id is taken."""

    verdict = "conflict"


def row_of(request: RunRequest, accepted: Accepted) -> Row:
    """The run that is begun for *request*."""
    return Row(
        run=request.run_id or new_run_id(),
        request_hash=request.hash,
        instance=parse(
            Instance, registry.record_of(accepted.instance), "instance"
        ),  # with paths that hold in any folder
        plan={
            **accepted.plan.to_json(),
            **({"buckets": to_json(accepted.buckets)} if accepted.buckets.places else {}),
        },
        profile=accepted.plan.name,
        labels=request.labels,
        secret_names=sorted(accepted.secrets),
        replaces=request.replace,
        is_watched_after=request.watch is not None,
    )


def the_same(found: Row, request: RunRequest) -> Row:
    """*found*, which has the id of *request*. Raises ConflictError: that means another run."""
    if found.request_hash != request.hash:
        raise ConflictError(
            f"run `{found.run}` was asked for with another body",
            hint="choose another `run_id`, or send the same body",
        )
    return found
