"""What is remembered of a step that installed packages, and whether it is all still there.

A package says itself which files it has (its RECORD); what is remembered here is only which packages belong to a step.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

from ...contract.parsing import ParseError, bounded, parse
from ...host.answers import Harm
from ...run.context import Context

_FILES_NAMED = 2


@dataclass(frozen=True)
class LayerRecord:
    """What one step installed."""

    digest: str = bounded("", max_chars=64)
    """Of the order: another one is another step."""
    versions: Dict[str, str] = bounded(factory=dict)
    """Of the distributions that it names: they must still have these."""
    brought: Tuple[str, ...] = ()
    """All distributions that were not there before it, or at another version: what it needs, too."""
    harmed: Tuple[str, ...] = ()
    """What was there before it and had lost files already, as in an image that was made smaller: it stays as it is."""

    @property
    def names(self) -> List[str]:
        """Every distribution that the step answers for."""
        return sorted({*self.versions, *self.brought} - set(self.harmed))

    def lost(self, installed: Mapping[str, str], unwanted: Iterable[str]) -> List[str]:
        """What it brought or names and is not there any more, or at another version where it names one."""
        other = [name for name, version in self.versions.items() if installed.get(name) != version]
        return sorted({*other, *(set(self.brought) - set(installed) - set(unwanted))})


def key_of(venv: str, item: str) -> str:
    """Under which the record of the step *item* of the environment *venv* is kept."""
    return f"{venv}:{item}"


def read(context: Context, key: str) -> LayerRecord:
    """What is remembered under *key*; an empty record where that is nothing, or cannot be read."""
    try:
        return parse(LayerRecord, context.state.get("layer", key) or {}, "the record")
    except ParseError:
        return LayerRecord()


def all_of(context: Context) -> List[LayerRecord]:
    """What is remembered of every step that installed packages."""
    found = []
    for data in context.state.all("layer"):
        try:
            found.append(parse(LayerRecord, data, "the record"))
        except ParseError:
            continue
    return found


def keep(context: Context, key: str, record: LayerRecord) -> None:
    """Remember *record*."""
    # without it, the step is done again, and finds all there
    context.state.put("layer", key, asdict(record), sync=False)


def made(
    before: Mapping[str, str],
    installed: Mapping[str, str],
    harmed: Mapping[str, Harm],
    *,
    digest: str,
    checked: Iterable[str],
    earlier: Optional[LayerRecord] = None,
) -> LayerRecord:
    """The record of a step that has just been done.

    Args:
        before: Version by name of what was installed before it.
        installed: The same after it.
        harmed: What of it is not as its install left it, all the same.
        digest: Of the step.
        checked: The distributions that it names.
        earlier: What was remembered of it before.
    """
    versions = {name: installed[name] for name in checked if name in installed}
    brought = {name for name, version in installed.items() if before.get(name) != version}
    brought.update(name for name in (earlier.brought if earlier else ()) if name in installed)
    left = sorted((set(versions) | brought) & set(harmed))
    return LayerRecord(digest, versions, tuple(sorted(brought)), tuple(left))


def told(name: str, harm: Harm) -> str:
    """What happened to the distribution *name*, in a few words."""
    files = [*harm.missing, *harm.changed]
    more = ", …" if len(files) > _FILES_NAMED else ""
    what = "misses" if harm.missing else "has other files than it came with:"
    return f"{name} {what} {', '.join(files[:_FILES_NAMED])}{more}"
