"""Before a source is asked: its host may want to be left alone, and its signed address may have to be signed anew."""

from __future__ import annotations

from ..contract.redaction import public_url
from ..run.context import Context, Report
from .source_selector import Source
from .sources.signed import SIGNED
from .time_budget import Allowance, TimeUp

LOOK_AGAIN_S = 0.25


def await_turn(source: Source, allowance: Allowance, context: Context, report: Report) -> None:
    """Return when *source* may be asked; raises as `Allowance.await_host`, and TimeUp when nobody signed in time."""
    if SIGNED.is_stale(source.url):
        _await_address(source, allowance, context, report)
    allowance.await_host(source.host, report)


def _await_address(source: Source, allowance: Allowance, context: Context, report: Report) -> None:
    shown = public_url(source.url)
    why = f"the signed address of {shown} does not work any more: a new one is asked for"
    report("waiting", host=source.host, wait_s=0.0, reason=why)
    context.ask_for(source.url)
    try:
        while SIGNED.is_stale(source.url):
            allowance.sleep(LOOK_AGAIN_S)
    except TimeUp as failure:
        message = f"the signed address of {shown} does not work any more, and nobody signed a new one"
        raise TimeUp(
            failure.class_, f"{message}: {failure.message}", case="sign_again", about={"run": context.run_id}
        ) from None
    finally:
        context.give_up(source.url)
