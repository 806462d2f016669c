"""Is this instance what the plan requires? It is measured before anything large is begun.

What costs nothing is looked at first: cards and memory. Then disk and line are measured side by side, and what falls short
is measured once more and alone, so that nobody is sent away because two measurements disturbed each other.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

from ..contract.failures import Failure
from ..contract.parsing import to_json
from ..contract.plan import Download, Plan
from ..contract.plan_parts import When, gib_text
from ..contract.plan_require import Require
from ..contract.source_kinds import means_many_files
from ..contract.steps import LEVELS
from ..downloads import Sources
from ..downloads.line_speed import Line
from ..downloads.line_speed import measure as measure_line
from ..downloads.sources import repositories
from ..host import detach, disk_speed, gpu_health
from ..services.files import processes_in
from . import conditions
from .context import Context
from .log_lines import rate_text, size_text
from .tally import Tally

MEMORY_SHARE = 0.93
"""What of the memory that a machine is sold with its kernel shows at least."""
USED_SHARE, USED_BYTES = 0.05, 1 << 30
"""What of a card's memory others may have at most, whichever is more: a display takes some."""
_RECORD = "required"
_DISK_S, LIST_S = 12.0, 10.0
_ALONE_S = 2.0
"""With less time left nothing is measured again."""

Shortfalls = Dict[str, Failure]
"""By the name of the requirement."""


class _Found(NamedTuple):
    """What was measured, what falls short, and what could not be measured."""

    figures: Dict[str, object]
    short: Shortfalls
    unknown: List[str]


def hold(
    plan: Plan, facts: Mapping[str, object], context: Context, tally: Tally, secrets: Mapping[str, str]
) -> bool:
    """Measure what *plan* requires, and report it; False when the instance falls short.

    Args:
        facts: The instance's facts.
        secrets: Values by name, for the sources that the line is measured against.
    """
    if plan.require is None:
        return True
    sources = Sources(plan.secrets, secrets, is_offline=context.is_offline)
    found = _Requirements(plan, plan.require, facts, context, sources).measured()
    context.report("instance_measured", **found.figures)
    for text in found.unknown:
        context.warn_once(text)
    for name, failure in found.short.items():
        item = f"require.{name}"
        context.report("preflight_failed", item=item, level="critical", **failure.as_fields())
        tally.fail("require", item, "critical", failure, is_reported=True)
    return not found.short


class _Requirements:
    """One measurement."""

    def __init__(
        self, plan: Plan, require: Require, facts: Mapping[str, object], context: Context, sources: Sources
    ) -> None:
        self._plan = plan
        self._require = require
        self._facts = facts
        self._context = context
        self._sources = sources
        self._began = time.monotonic()
        self._deadline = self._began + context.bounded(require.within_s)
        self._figures: Dict[str, object] = {}
        self._short: Shortfalls = {}
        self._unknown: List[str] = []
        self._line: Optional[Line] = None
        self._disk_bytes_per_s = 0.0

    def measured(self) -> _Found:
        """All of it; nothing that takes time where the cards or the memory will not do anyway."""
        self._look_at_cards()
        self._look_at_health()
        self._look_at_memory()
        if not self._short:
            self._look_at_speeds()
        self._figures["duration_s"] = round(time.monotonic() - self._began, 3)
        return _Found(self._figures, self._short, self._unknown)

    # -- what costs nothing

    def _look_at_cards(self) -> None:
        for name in ("gpu_name", "gpu_count", "gpu_memory", "gpu_capability"):
            wanted = getattr(self._require, name)
            if wanted:
                condition: Dict[str, object] = {name: wanted}
                why = conditions.unmet(When(**condition), self._facts, self._context)  # type: ignore[arg-type]
                if why is not None:
                    self._falls_short(name, why)

    def _look_at_health(self) -> None:
        wants_free, wants_whole = self._require.gpu_free, self._require.gpu_errors == "none"
        if not (wants_free or wants_whole):
            return
        health = gpu_health.look()
        if wants_whole:
            self._figures["gpu_errors"] = list(health.errors)
        if wants_whole and health.errors:
            self._falls_short("gpu_errors", "; ".join(health.errors[:4]), found=len(health.errors))
        if not wants_free:
            return
        if health.cards is not None:
            self._look_at_use(health.cards)
        elif not self._facts.get("gpus"):
            self._falls_short("gpu_free", "there is no GPU")
        else:
            self._unknown.append("how much memory of the GPU is free is not known: nvidia-smi does not tell")

    def _look_at_use(self, cards: Tuple[gpu_health.Card, ...]) -> None:
        self._figures["gpu_used_bytes"] = max(card.used_bytes for card in cards)
        taken = [card for card in cards if card.used_bytes > max(USED_BYTES, USED_SHARE * card.total_bytes)]
        if not taken or processes_in(self._context.workspace):
            return  # it is our own service that has it, as far as anybody can tell
        told = [
            f"{gib_text(card.used_bytes)} of {gib_text(card.total_bytes)} of card {card.bus}"
            for card in taken
        ]
        message = f"somebody else has {', '.join(told)}"
        self._falls_short("gpu_free", message, found=taken[0].used_bytes)

    def _look_at_memory(self) -> None:
        wanted, found = self._require.memory_bytes, self._facts.get("memory_bytes")
        if wanted is None:
            return
        if not isinstance(found, int):
            self._unknown.append("how much memory this machine has is not known")
            return
        self._figures["memory_bytes"] = found
        if found < MEMORY_SHARE * wanted:
            message = f"the memory is {gib_text(found)}; {gib_text(wanted)} are required"
            self._falls_short("memory", message, found=found, wanted=wanted)

    def _falls_short(self, name: str, message: str, **facts: int) -> None:
        self._short[name] = failure = Failure("unfit", message)
        failure.facts.update(facts)

    # -- what takes seconds

    def _look_at_speeds(self) -> None:
        known = self._measured_before()
        if known is not None:
            self._figures.update(known, earlier=True)
            return
        asked: Dict[str, Callable[[], bool]] = {}
        if self._require.disk_write_bytes_per_s:
            asked["disk_write"] = self._is_disk_fast
        if self._require.line_bytes_per_s and not self._context.is_offline:
            asked["line"] = self._is_line_fast
        with ThreadPoolExecutor(max_workers=2) as pool:
            answers = {name: pool.submit(ask) for name, ask in asked.items()}
        slow = [name for name, answer in answers.items() if not answer.result()]
        for name in slow:
            if not self._context.is_over() and self._deadline - time.monotonic() > _ALONE_S and asked[name]():
                self._short.pop(name, None)
        if not self._short and not self._unknown:
            record = {name: self._figures[name] for name in _SPEEDS if name in self._figures}
            self._context.state.put(_RECORD, self._key, dict(record, boot=detach.boot_id()))

    def _measured_before(self) -> Optional[Dict[str, object]]:
        """The speeds of an earlier run that were enough, if this machine has not been started since."""
        record = self._context.state.get(_RECORD, self._key)
        if record is None or record.pop("boot", None) != detach.boot_id():
            return None
        return {name: record[name] for name in _SPEEDS if name in record}

    @property
    def _key(self) -> str:
        return json.dumps(to_json(self._require), sort_keys=True)

    def _is_disk_fast(self) -> bool:
        wanted = self._require.disk_write_bytes_per_s or 0
        within_s = max(1.0, min(_DISK_S, self._deadline - time.monotonic()))
        told = disk_speed.measure(self._context.workspace, wanted_bytes_per_s=wanted, within_s=within_s)
        if told.why:
            self._unknown.append(f"how fast the disk is is not known: {told.why}")
            return True
        self._disk_bytes_per_s = best = max(told.bytes_per_s, self._disk_bytes_per_s)
        self._figures["disk_write_bytes_per_s"] = round(best)
        if best < wanted:
            takes = (
                f"takes {size_text(best)}/s"
                if told.is_over
                else f"hangs: not done after {told.seconds:.0f} s"
            )
            message = f"the disk {takes}; {size_text(wanted)}/s are required"
            self._falls_short("disk_write", message, found=round(best), wanted=wanted)
        return best >= wanted

    def _is_line_fast(self) -> bool:
        wanted = self._require.line_bytes_per_s or 0
        line = measure_line(
            self._line_urls(),
            self._sources,
            wanted_bytes_per_s=wanted,
            deadline=self._deadline,
            is_over=self._context.is_over,
        )
        if line.why:
            if self._line is None:
                self._unknown.append(f"how fast the line is is not known: {line.why}")
            return True
        if self._line is None or line.bytes_per_s > self._line.bytes_per_s:
            self._line = line
        best = self._line
        self._figures.update(line_bytes_per_s=round(best.bytes_per_s), line_host=best.host)
        if best.bytes_per_s < wanted:
            brings = f"{rate_text(best.bytes_per_s)} from {best.host}"
            message = f"the line brings {brings}; {rate_text(wanted)} are required"
            self._falls_short("line", message, found=round(best.bytes_per_s), wanted=wanted)
        return best.bytes_per_s >= wanted

    def _line_urls(self) -> List[str]:
        """What the line is measured against: the most urgent files first, of one level the largest, each with its mirrors."""
        if self._require.line_from is not None:
            return [self._require.line_from]
        wanted = self._plan.chosen("downloads", self._plan.downloads) or list(self._plan.downloads)
        items = [item for item in wanted if not means_many_files(item.url)]
        items = items or self._listed(wanted[:1])
        items.sort(key=lambda item: (LEVELS.index(item.level), -(item.size_bytes or 0)))
        for item in items:
            self._sources.add(item)
        urls = [url for item in items for url in (item.url, *item.mirrors)]
        return [url for url in urls if urlsplit(url).scheme != "file"]

    def _listed(self, items: List[Download]) -> List[Download]:
        """The files of whole repositories; none of one that cannot be listed soon."""
        files: List[Download] = []
        for item in items:
            try:
                listing = repositories.listing_of(item, item.url)
                if listing is not None:
                    deadline = min(self._deadline, time.monotonic() + LIST_S)
                    files += repositories.files_of(item, listing, self._sources, deadline=deadline)
            except Failure:
                continue  # the preflight says why
        return files


_SPEEDS = ("disk_write_bytes_per_s", "line_bytes_per_s", "line_host")
