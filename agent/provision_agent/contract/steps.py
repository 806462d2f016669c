"""The steps of a run, in their order: the kind of item that each has, and what waits for it. Pure."""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

LEVELS = ("critical", "required", "optional")
"""What an item's failure means: critical decides `usable`, required decides `complete`, optional only warns."""


VERIFIED, SIZE_ONLY = "verified", "present, size only"
"""Why an item that is there already is skipped; of the second kind nothing is known that its bytes could be held against."""
THERE = frozenset((VERIFIED, SIZE_ONLY))


class Step(NamedTuple):
    """One step. Its name is also the key of its items in a profile and in a plan."""

    kind: str
    """Its items' events begin with it, as `download` in ``download_finished``."""
    group: str
    """Its items' name in the status of a run."""
    text: str
    """What it does, for people."""
    is_sequential: bool = False
    """Its items are done one after the other, when downloads, repositories and the environment of their level are there:
    each by the function `do` of the agent's module ``steps.<name>``."""
    only_looks: bool = False
    """Its items change nothing: they are done even when the run is over, the critical ones again at the end."""


STEPS: Dict[str, Step] = {
    "apt": Step("package", "packages", "packages of the system"),
    "python": Step("package", "packages", "the virtual environment and its layers"),
    "repos": Step("repo", "repos", "git checkouts and their requirements"),
    "uploads": Step("upload", "uploads", "files from the machine that ordered the run"),
    "downloads": Step("download", "downloads", "files, verified before their final name"),
    "files": Step("file", "files", "small text files", is_sequential=True),
    "commands": Step("command", "commands", "single programs, run to their end", is_sequential=True),
    "checks": Step("check", "checks", "what must be there at the end", is_sequential=True, only_looks=True),
    "services": Step("service", "services", "programs that outlive the run"),
    "jobs": Step("job", "jobs", "long programs that the verdict waits for, such as a training"),
}
"""In the order in which people read them; `usable` waits for the critical items of all but the jobs."""

SEQUENTIAL: Tuple[str, ...] = tuple(name for name, step in STEPS.items() if step.is_sequential)

STEP_NAMES: Tuple[str, ...] = tuple(STEPS)

GROUPS: Dict[str, str] = {step.kind: step.group for step in STEPS.values()}
"""The kinds of item, and the name of each in a run's status."""
