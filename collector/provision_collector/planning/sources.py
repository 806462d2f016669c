"""Does every source have what the profile promises? One row per source, and an exit code for all of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from provision_agent.contract.failures import FAILURES
from provision_agent.contract.plan import Download, Plan, Repo
from provision_agent.contract.source_kinds import host_of

from .answers import Source, Survey

STATES = {
    "ok": "ok",
    "gated": "gated",
    "unauthorized": "unauthorized",
    "not_found": "missing",
    "not_a_model": "not the file",
    "size": "size differs",
    "checksum": "hash differs",
    "conflict": "same name",
    "on_instance": "not asked",
}
"""By class of answer; every other class means that the source could not be asked."""
SHOWN = 3
"""Of many files of a repository that meet others, this many are named."""


@dataclass(frozen=True)
class Row:
    """What one source of one item said, held against the profile."""

    item: str
    """As people call it."""
    key: str
    kind: str
    """download | repo"""
    role: str
    """url | mirror | substitute"""
    level: str
    state: str
    """One of `STATES`, or ``unreachable``."""
    class_: str
    url: str
    host: str
    size_bytes: int | None
    sha256: str | None
    commit: str | None
    message: str
    hint: str

    @property
    def is_ok(self) -> bool:
        return self.class_ in ("ok", "on_instance")

    def to_json(self) -> dict[str, object]:
        return {name.rstrip("_"): value for name, value in asdict(self).items()}


def rows_of(plan: Plan, surveyed: Survey) -> list[Row]:
    """One row per source, in the plan's order.

    Args:
        plan: What was asked about.
        surveyed: What its sources said.
    """
    rows: list[Row] = []
    for item, sources in zip(plan.downloads, surveyed.downloads, strict=True):
        for number, source in enumerate(sources):
            role = _role(number, 1 + len(item.mirrors))
            class_, message = _judged(item, source, role)
            if class_ == "ok" and role != "substitute" and item.key in surveyed.taken:
                class_, message = "conflict", "; ".join(surveyed.taken[item.key][:SHOWN])
            rows.append(_row(item, role, source, class_, message))
    for repo, sources in zip(plan.repos, surveyed.repos, strict=True):
        for number, source in enumerate(sources):
            role = _role(number, 1 + len(repo.mirrors))
            rows.append(_row(repo, role, source, source.class_, source.message))
    return rows


def seen_from_here(rows: Iterable[Row]) -> list[Row]:
    """*rows* that this machine was asked for: what lies on the instance's own disk, only the instance can tell."""
    return [_on_instance(row) if row.url.startswith("file:") else row for row in rows]


def _on_instance(row: Row) -> Row:
    return replace(
        row,
        state=STATES["on_instance"],
        class_="on_instance",
        host="its disk",
        size_bytes=None,
        sha256=None,
        commit=None,
        message="a file of the instance: only the instance can tell whether it is there",
        hint="`provision doctor --host … --profile …` asks it",
    )


def exit_code(rows: Sequence[Row]) -> int:
    """0: every item has a good source. 1: a critical one has none. 5: a required one has none."""
    good = {(row.kind, row.key) for row in rows if row.is_ok}
    return worst(row.level for row in rows if (row.kind, row.key) not in good)


def worst(levels: Iterable[str]) -> int:
    """The exit code when items of these *levels* are not as they should be."""
    found = set(levels)
    return 1 if "critical" in found else 5 if "required" in found else 0


def _role(number: int, own: int) -> str:
    return "url" if number == 0 else "mirror" if number < own else "substitute"


def _judged(item: Download, source: Source, role: str) -> tuple[str, str]:
    if not source.is_ok or role == "substitute":
        return source.class_, source.message
    if item.size_bytes is not None and source.size_bytes not in (None, item.size_bytes):
        return "size", f"it has {source.size_bytes} bytes, the profile says {item.size_bytes}"
    if item.sha256 is not None and source.sha256 not in (None, item.sha256):
        return "checksum", f"its sha256 is {source.sha256}, the profile says {item.sha256}"
    return "ok", ""


def _row(item: Download | Repo, role: str, source: Source, class_: str, message: str) -> Row:
    name = key = item.path
    if isinstance(item, Download):
        has_name = item.path.endswith("/") and source.name and role != "substitute"
        name, key = item.path + str(source.name) if has_name else item.label, item.key
    known = FAILURES[class_].hint if class_ in FAILURES else ""
    return Row(
        item=name,
        key=key,
        kind="download" if isinstance(item, Download) else "repo",
        role=role,
        level=item.level,
        state=STATES.get(class_, "unreachable"),
        class_=class_,
        url=source.url,
        host=host_of(source.url),
        size_bytes=source.size_bytes,
        sha256=source.sha256,
        commit=source.commit,
        message=message,
        hint="" if class_ == "ok" else source.hint or known,
    )
