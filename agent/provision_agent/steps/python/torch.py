"""The right torch: installed from where it is, and proven by a matrix product.

A CPU build on a machine with a GPU is an error and is repaired. `builds.py` chooses; here the choices are tried in
their order until one can be had and runs. The torch of an image's own environment, chosen because it runs, is never
downgraded.
"""

from __future__ import annotations

import os
import re
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...contract.failures import Failure
from ...contract.findings import Facts
from ...contract.plan import Torch
from ...host import answers, probe
from ...host.probe import normalised
from ...run.context import Context
from ..progress import Progress
from . import companions, indexes
from .builds import Candidate, candidates, release
from .installer import Installer
from .venv import is_chosen_of_image

ITEM = "torch"
LEVEL = "critical"
VERIFY_S = 180.0
INDEX = "https://download.pytorch.org/whl"
INDEX_VARIABLE = "PROVISION_TORCH_INDEX"
"""Names another place than `INDEX`, for networks that cannot reach it."""
_CONFIGURED = ("index-url", "extra-index-url", "find-links")
_CONFIGURED_FOR_UV = ("UV_INDEX_URL", "UV_DEFAULT_INDEX")
_KEEPS_COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
"""The first import of torch compiles some thousand files; so no later one has to."""


def names(torch: Torch) -> List[str]:
    """Distributions of the layer, normalised; torch first."""
    return ["torch", *(normalised(re.split(r"[<>=!~\[; ]", extra)[0]) for extra in torch.extras)]


def recorded_index(context: Context, venv: str) -> Tuple[List[str], List[str]]:
    """Index options with which the torch family of *venv* was installed, and the names of the family."""
    record = context.state.get("torch", venv) or {}
    return _texts(record.get("options")), _texts(record.get("names"))


def groups(requirements: Sequence[str], context: Context, venv: str) -> List["tuple[List[str], List[str]]"]:
    """*requirements*, each with the options that it is installed with again: the torch family comes from its own index."""
    options, names = recorded_index(context, venv)
    from_torch = [requirement for requirement in requirements if requirement.split("==")[0] in names]
    others = [requirement for requirement in requirements if requirement not in from_torch]
    return [(o, group) for o, group in ((options, from_torch), ([], others)) if group]


def _texts(value: object) -> List[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


class Source(NamedTuple):
    """An index that may have a candidate: as people know it, as pip is told, and what is asked of it."""

    title: str
    urls: List[str]
    options: List[str]
    requirement: str


def sources(wanted: Torch, candidate: Candidate, settings: Mapping[str, str]) -> List[Source]:
    """Where to look for *candidate*, in order: the indexes that the user configured, then torch's own.

    Where the plan names an index for torch, there only.
    """
    pinned = f"torch=={candidate.version}" if candidate.version else "torch"
    is_exact = candidate.version is None or "+" in candidate.version or candidate.is_kept
    found: List[Source] = []
    links = [f"--find-links={place}" for place in wanted.find_links]
    if wanted.index is not None:
        url = wanted.index.replace("{accelerator}", candidate.tag)
        return [Source(url, [url], ["--index-url", url, *links], pinned)]
    if any(name in settings for name in _CONFIGURED) or any(map(os.environ.get, _CONFIGURED_FOR_UV)):
        exact = pinned if is_exact else f"{pinned}+{candidate.tag}"
        found.append(Source("the configured index", indexes.urls(settings), links, exact))
    if "no-index" not in settings:
        place = os.environ.get(INDEX_VARIABLE, INDEX).rstrip("/")
        url = f"{place}/{candidate.tag}"
        found.append(Source(place, [url], ["--index-url", url, *links], pinned))
    return found


class TorchLayer:
    """One torch layer of a plan on its way into one environment."""

    def __init__(self, wanted: Torch, tools: Installer, context: Context, facts: Facts) -> None:
        self._wanted = wanted
        self._tools = tools
        self._context = context
        self._facts = facts
        self._needs_gpu = bool(facts.gpus) and wanted.accelerator != "cpu"
        self._is_of_image = is_chosen_of_image(tools.venv.path, context)

    def is_satisfied(self) -> bool:
        """True when a torch that the layer accepts is installed with its extras and runs."""
        installed = self._tools.installed()
        found = installed.get("torch")
        if found is None or not all(name in installed for name in names(self._wanted)):
            return False
        version, _, tag = found.partition("+")
        versions = self._wanted.versions
        is_newer = self._is_of_image and all(release(found) > release(wanted) for wanted in versions)
        if versions and not is_newer and not {version, found}.intersection(versions):
            return False
        if companions.misfit(self._unpinned(), installed) is not None:
            return False
        return self._wanted.accelerator in ("auto", tag) and self.problem() is None

    def install(self, progress: Progress, held: Mapping[str, str]) -> None:
        """Install the first candidate that can be had and that runs; versions in *held* stay as they are.

        Raises:
            Failure: `gpu` when none suits or none runs, `network`, `not_found`, … when none can be had.
        """
        last = Failure("gpu", "there is no candidate for torch")
        unreachable: Dict[str, Failure] = {}
        for candidate in self._candidates():
            progress.say(f"{candidate.title}: {candidate.why}")
            try:
                arguments = self._get(candidate, progress, held, unreachable)
            except Failure as failure:
                if self._is_final(failure):
                    raise
                last = failure
                continue
            problem = self.problem()
            if problem is not None:
                problem = self._repair(problem, arguments, progress)
            if problem is None:
                self._record(candidate, arguments)
                return
            last = Failure("gpu", f"{candidate.title} does not run here: {problem}")
            progress.say(last.message)
        raise last

    def _get(
        self,
        candidate: Candidate,
        progress: Progress,
        held: Mapping[str, str],
        unreachable: Dict[str, Failure],
    ) -> List[str]:
        """Install *candidate* from the first source that has it; what the installer was told.

        Args:
            unreachable: Sources that are not asked again, with the reason; more are added.
        """
        constraints = {**held, "torch": str(candidate.version)} if candidate.is_kept else held
        last = Failure("not_found", "no index may be asked for torch")
        for source in sources(self._wanted, candidate, indexes.configured(self._tools.venv.path)):
            if source.title in unreachable:
                last = unreachable[source.title]
                continue
            try:
                return self._install(candidate, source, progress, constraints)
            except Failure as failure:
                if self._is_final(failure):
                    raise
                last = failure
                progress.say(f"{candidate.title} cannot be had from {source.title}: {failure.message}")
                if failure.meaning.is_retriable:
                    unreachable[source.title] = failure
        raise last

    def _install(
        self, candidate: Candidate, source: Source, progress: Progress, constraints: Mapping[str, str]
    ) -> List[str]:
        """torch and what goes with it, from *source*; what the installer was told.

        Raises:
            Failure: as the installer's; one for want of a companion says which version of it was looked for.
        """

        def arguments(version: Optional[str]) -> List[str]:
            with_it = companions.requirements(self._wanted.extras, version, self._tools.locked)
            return [*source.options, source.requirement, *with_it]

        version = candidate.version
        if version is None and arguments("2.1") != arguments(None):
            # the newest: which one that is, and so what goes with it, is known once it is there
            alone = [*source.options, source.requirement]
            self._tools.install(alone, progress, item=ITEM, level=LEVEL, constraints=constraints)
            version = self._tools.installed()["torch"]
            constraints = {**constraints, "torch": version}
        told = arguments(version)
        try:
            self._tools.install(told, progress, item=ITEM, level=LEVEL, constraints=constraints)
        except Failure as failure:
            chosen = [line for line in told if line not in (*self._wanted.extras, *arguments(None))]
            if failure.class_ not in ("not_found", "conflict") or not chosen:
                raise
            message = f"{failure.message} (torch {version} goes with {', '.join(chosen)})"
            raise failure.saying(message) from None
        return told

    def _unpinned(self) -> List[str]:
        """The extras that have no version of their own."""
        return [extra for extra in self._wanted.extras if normalised(extra) not in self._tools.locked]

    def _is_final(self, failure: Failure) -> bool:
        """True when no other source or version would help."""
        is_everywhere = failure.meaning.is_of_instance or failure.class_ in ("command", "bug")
        return self._context.cancelled.is_set() or is_everywhere

    def _candidates(self) -> List[Candidate]:
        """What may be tried, in order; in an image's environment nothing older than what runs there."""
        found = self._tools.installed().get("torch")
        wanted = candidates(self._wanted, self._facts)
        if found is None or not self._is_of_image or self.problem() is not None:
            return wanted
        newer = [each for each in wanted if each.version is None or release(each.version) > release(found)]
        tag = found.partition("+")[2] or wanted[0].tag
        return [
            *newer,
            Candidate(found, tag, "it runs here already, in the image's own environment", is_kept=True),
        ]

    def problem(self) -> Optional[str]:
        """Why the installed torch does not do here; None when it does."""
        timeout_s = self._context.bounded(VERIFY_S)
        python, cancelled = self._tools.venv.python, self._context.cancelled
        try:
            answer = probe.ask(
                python,
                answers.Torch,
                timeout_s=timeout_s,
                cancelled=cancelled,
                environment=None if self._is_of_image else _KEEPS_COMPILED,
            )
        except Failure as failure:
            return failure.message
        version = answer.version
        if version is not None and self._needs_gpu and not answer.cuda and not answer.is_available:
            return f"torch {version} is a CPU build, and this instance has a GPU"
        if answer.error:
            return answer.error
        if self._needs_gpu and answer.ran_on != "cuda":
            return f"torch {version} (CUDA {answer.cuda}) does not see the GPU"
        return None

    def _repair(self, problem: str, arguments: List[str], progress: Progress) -> Optional[str]:
        """Uninstall and install once more; the problem that is left, None when it runs."""
        self._context.report("warning", message=f"{problem}: removing it and installing it once more")
        present = [name for name in names(self._wanted) if name in self._tools.installed()]
        try:
            if present:
                self._tools.uninstall(present, progress)
            options = ["--force-reinstall", *arguments]
            self._tools.install(options, progress, item=ITEM, level=LEVEL, constraints={})
        except Failure as failure:
            return f"{problem}; and a second install failed: {failure.message}"
        return self.problem()

    def _record(self, candidate: Candidate, arguments: List[str]) -> None:
        options = arguments[:2] if arguments[0] == "--index-url" else []
        record: Dict[str, object] = {"options": options, "names": names(self._wanted), "tag": candidate.tag}
        self._context.state.put("torch", self._tools.venv.path, record)
