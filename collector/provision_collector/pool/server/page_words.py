"""The words that the page shares with the registries of events and verdicts, as the JavaScript module ``/page/words.js``."""

from __future__ import annotations

import json

from provision_agent.contract.events import EVENTS
from provision_agent.contract.verdicts import NEXT, VERDICTS

from ..store.rows import STATES

_GOOD = frozenset(("complete", "done", "passed", "ready", "usable"))
_WARN = frozenset(
    ("incomplete", "cancelled", "contact-lost", "stalled", "retrying", "waiting", "skipped", "partly")
)
_BAD = frozenset(("broken", "failed"))


def page_words() -> str:
    """The module: `GOING`, `NEXT`, `EVENTS` (group and state of an item by event), `TONES` (by state or verdict)."""
    events = {name: [kind.group, kind.state] for name, kind in EVENTS.items() if kind.group}
    tables = {
        "GOING": STATES,
        "NEXT": {word: f"{text[:1].upper()}{text[1:]}." for word, text in NEXT.items() if text},
        "EVENTS": events,
        "TONES": {state: _tone(state) for state in (*STATES, *VERDICTS, *_item_states(), "partly")},
    }
    return "".join(
        f"export const {name} = {json.dumps(table, ensure_ascii=False)};\n" for name, table in tables.items()
    )


def _item_states() -> set[str]:
    return {kind.state for kind in EVENTS.values() if kind.group and kind.state}


def _tone(state: str) -> str:
    if state in _GOOD or state in _WARN:
        return "good" if state in _GOOD else "warn"
    return "bad" if state in _BAD or state in VERDICTS else "busy"
