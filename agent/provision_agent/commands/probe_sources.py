"""What every source of a plan has, and what of it is on this instance already. Changes nothing.

Runs on the instance, or on the user's machine where only the sources are of interest. All sources are asked side
by side; the whole survey ends within `WITHIN_S`, whatever they do.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ..contract import redaction
from ..contract.environment_told import EnvironmentTold
from ..contract.failures import Failure
from ..contract.findings import (
    ItemTold,
    PackageTold,
    Present,
    SourcesAnswer,
    SourcesRequest,
    SourceTold,
    Standing,
)
from ..contract.plan import Download, Plan, Python, Repo
from ..contract.source_kinds import means_many_files
from ..downloads import Answer, Sources, existing, hosts, verify
from ..downloads.engine.part_file import landed_bytes
from ..downloads.names import NameTaken
from ..downloads.sources import addresses, repositories
from ..downloads.sources.signed import SIGNED
from ..host.facts import find_facts
from ..host.folders import nearest_folder
from ..run import answering, conditions
from ..run.context import Context
from ..steps import refs
from ..steps.git import Git
from ..steps.python import compiled, wheels
from . import probe_packages, room_told
from .query import quiet_context, standing_workspace

WITHIN_S = 75.0
READING_WITHIN_S = 1800.0
"""With what `pin` may have to read."""
HASHES_AT_ONCE, AT_ONCE = 4, 64
LOOKUP_S = 30.0
MEASURE_S = 3.0
MEASURE_CONNECTIONS = 4
MEASURE_FROM_BYTES = 8 << 20
"""A smaller file is through before its speed says anything."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def sources_main(argv: List[str]) -> int:
    """``sources``: what every source of a plan has; of an instance also how it stands: see `SourcesRequest`."""
    return answering.answer(SourcesRequest, _sources)


def _sources(request: SourcesRequest) -> answering.Answer:
    plan = Plan.from_json(request.plan)
    root = standing_workspace(plan).root if request.is_instance else tempfile.gettempdir()
    plan = plan.bind(workspace=root, home=os.path.expanduser("~"), run_id="plan")
    SIGNED.take(request.signed)
    within_s = READING_WITHIN_S if request.pin and request.is_instance else WITHIN_S
    context = quiet_context(
        root,
        within_s=within_s,
        secrets=request.secrets,
        offered=request.offered,
        has_state=request.is_instance,
    )
    survey = Survey(plan, context, request)
    told = survey.ask()
    standing = [survey.look()] if request.is_instance else []
    return (replace(told, rate_bytes_per_s=survey.measure() if request.measure else None), *standing)


class Survey:
    """Asks about one bound plan. `ask` first; `look` and `measure` use its answers."""

    def __init__(self, plan: Plan, context: Context, request: SourcesRequest) -> None:
        self._plan = plan
        self._context = replace(context, rules=plan.secrets)
        self._request = request
        self._pin = request.pin
        self._facts = find_facts(context.workspace) if request.is_instance else None
        told = plan if request.pin else conditions.unconditional(plan)  # without an instance
        self._chosen = conditions.Selection(told, (), ())
        if self._facts is not None:
            self._chosen = conditions.select(plan, self._facts, self._context)
        self._environment: Optional[EnvironmentTold] = None
        self._access = Sources(rules=plan.secrets, secrets=context.secrets)
        self._hosts = hosts.Hosts(plan.limits.hosts)
        self._answers: Dict[str, Answer] = {}
        self._files: Dict[str, List[Download]] = {}
        self._pool = ThreadPoolExecutor(max_workers=AT_ONCE)
        self._told: Dict[str, "Future[SourceTold]"] = {}

    def ask(self) -> SourcesAnswer:
        """Every source of every download and repo, in the plan's order: first the URL, then the mirrors, then the substitute."""
        for item in self._plan.downloads:
            self._access.add(item)
        repos = [
            (repo, [self._pool.submit(self._ask_repo, url, repo) for url in (repo.url, *repo.mirrors)])
            for repo in self._plan.repos
        ]
        downloads = [
            (item, [self._ask_once(url, item) for url in _urls_of(item)]) for item in self._plan.downloads
        ]
        if self._request.packages:
            self._environment = self._of_packages()
        return SourcesAnswer(
            tuple(
                ItemTold(item.path, tuple(told.result() for told in asked), item.key)
                for item, asked in downloads
            ),
            tuple(ItemTold(repo.path, tuple(told.result() for told in asked)) for repo, asked in repos),
            self._taken(),
            self._access.refused_without,
            environment=self._environment,
        )

    def _of_packages(self) -> Optional[EnvironmentTold]:
        asked = self._request
        return probe_packages.told_of(
            self._chosen.plan,
            self._context,
            self._access,
            self._pool,
            target=asked.target,
            facts=self._facts,
            uv=asked.uv,
            pin=asked.pin,
        )

    def _taken(self) -> Dict[str, Tuple[str, ...]]:
        """By item's key, why it cannot be had: another item's file has the same final name and is not the same."""
        first: Dict[str, Tuple[Download, Download]] = {}
        taken: Dict[str, Tuple[str, ...]] = {}
        always = [
            item for item in self._plan.downloads if item.when is None
        ]  # of others perhaps only one is wanted
        for item in always:
            for file in self._files.get(item.key) or [self._told_of(item)]:
                other, holder = first.setdefault(file.path, (file, item))
                difference = _difference(other, file)
                if holder is not item and not file.path.endswith("/") and difference:
                    message = NameTaken(file.path, other, file, difference, is_there=False).message
                    for key in (holder.key, item.key):
                        taken[key] = (*taken.get(key, ()), message)
        return taken

    def _told_of(self, item: Download) -> Download:
        """*item* with the name, the size and the hash that the first source which answered has."""
        answer = next((self._answers[url] for url in (item.url, *item.mirrors) if url in self._answers), None)
        if answer is None:
            return item
        name = (answer.name or "") if item.path.endswith("/") else ""
        size = item.size_bytes if item.size_bytes is not None else answer.size_bytes
        return replace(item, path=item.path + name, size_bytes=size, sha256=item.sha256 or answer.sha256)

    def look(self) -> Standing:
        """What this instance is, and what of the plan it has."""
        facts, python = self._facts, self._plan.python
        assert facts is not None
        git = shutil.which("git") is not None
        chosen = self._chosen
        reasons = {each.number: each.reason for each in chosen.skipped if each.step == "downloads"}
        with ThreadPoolExecutor(max_workers=HASHES_AT_ONCE) as pool:
            present = tuple(pool.map(self._present, self._plan.downloads))
        unmet = tuple(reasons.get(number) for number in range(len(self._plan.downloads)))
        missing = [0 if reason else have.missing_bytes for have, reason in zip(present, unmet)]
        return Standing(
            workspace=self._context.workspace,
            can_write=os.access(nearest_folder(self._context.workspace), os.W_OK),
            facts=facts,
            unix=time.time(),
            present=present,
            unmet=unmet,
            commits=tuple(self._head(repo) if git else "" for repo in self._plan.repos),
            disks=tuple(room_told.disks_of(chosen.plan, self._context, missing, self._environment, facts)),
            installed=probe_packages.installed(python, self._context, facts) if self._pin and python else {},
            packages=tuple(self._packages(chosen.plan.python, facts)),
            compiled=compiled.of_instance(chosen.plan, facts, self._access, self._context),
            skipped=chosen.skipped,
            clashes=chosen.clashes,
        )

    def measure(self) -> Optional[float]:
        """Bytes per second that the largest file's source gives within `MEASURE_S`; None when no file is large enough."""
        fit = [each for each in self._answers.values() if (each.size_bytes or 0) >= MEASURE_FROM_BYTES]
        large = sorted(fit, key=lambda each: each.size_bytes or 0, reverse=True)[:1]
        if not large or urlsplit(large[0].location).scheme == "file":
            return None
        began = time.monotonic()
        share = (large[0].size_bytes or 0) // MEASURE_CONNECTIONS
        counts = [
            self._pool.submit(self._read_some, large[0], (number * share, (number + 1) * share))
            for number in range(MEASURE_CONNECTIONS)
        ]
        landed = sum(count.result() for count in counts)
        return landed / (time.monotonic() - began) if landed else None

    def _packages(self, python: Optional[Python], facts: Mapping[str, object]) -> List[PackageTold]:
        if not self._request.packages or python is None or "python" not in self._plan.steps:
            return []
        return wheels.ask(python, facts, self._access, self._context, self._pool)

    # -- one source

    def _ask_once(self, url: str, item: Download) -> "Future[SourceTold]":
        asked = f"{url} {item.key}" if means_many_files(url) else url  # patterns differ from item to item
        if asked not in self._told:
            self._told[asked] = self._pool.submit(self._ask, url, item)
        return self._told[asked]

    def _ask(self, url: str, item: Download) -> SourceTold:
        began = time.monotonic()
        try:
            if means_many_files(url):
                return self._ask_repository(url, item)
            host = urlsplit(addresses.address_of(url)).hostname or ""
            turn = self._hosts.lookups(host)
            if not turn.acquire(timeout=max(0.0, self._context.remaining_s())):
                raise Failure("unreachable", f"{host} answers too slowly to be asked about every file")
            try:
                within_s = self._context.bounded(min(LOOKUP_S, item.limits.lookup_s))
                answer = self._access.ask(url, within_s=within_s, connect_s=item.limits.connect_s)
            finally:
                turn.release()
        except Failure as failure:
            return _refused(url, failure, began)
        self._answers[url] = answer
        return SourceTold(
            "ok",
            redaction.public_url(url),
            size_bytes=answer.size_bytes,
            sha256=answer.sha256,
            name=answer.name,
            host=answer.host,
            pinned_url=self._pinned(url) if self._pin else None,
            seconds=_since(began),
        )

    def _ask_repository(self, url: str, item: Download) -> SourceTold:
        began = time.monotonic()
        try:
            listing = repositories.listing_of(item, url)
            assert listing is not None
            within_s = self._context.bounded(min(LOOKUP_S, item.limits.lookup_s))
            files = repositories.files_of(item, listing, self._access, deadline=began + within_s)
        except Failure as failure:
            return _refused(url, failure, began)
        self._files[item.key] = files
        size = sum(file.size_bytes or 0 for file in files)
        return SourceTold("ok", url, size_bytes=size, files=len(files), seconds=_since(began))

    def _pinned(self, url: str) -> Optional[str]:
        """*url* with the commit that its branch or tag stands for now, where a model hub says which; else None."""
        deadline = time.monotonic() + self._context.bounded(10.0)
        return addresses.kind_for(url).pinned(url, self._access.fetcher(deadline))

    def _ask_repo(self, url: str, repo: Repo) -> SourceTold:
        began = time.monotonic()
        try:
            if shutil.which("git") is None:
                raise Failure("missing", "git is not here to ask", case="no_git")
            git = Git(tempfile.gettempdir(), self._context, lambda line: None)
            is_commit = bool(repo.ref and _COMMIT.fullmatch(repo.ref))
            found = refs.resolve(url, None if is_commit else repo.ref, git)
        except Failure as failure:
            return _refused(url, failure, began)
        commit = repo.ref if is_commit else found.commit
        return SourceTold("ok", redaction.public_url(url), commit=commit, seconds=_since(began))

    def _read_some(self, answer: Answer, span: Tuple[int, int]) -> int:
        end = time.monotonic() + MEASURE_S
        try:
            response, _ = self._access.open(
                answer.url, span=span, deadline=end + MEASURE_S, connect_s=MEASURE_S
            )
        except Failure:
            return 0
        landed = 0
        try:
            while time.monotonic() < end and not response.at_end:
                landed += len(response.read(1 << 20, max(0.05, end - time.monotonic())))
        finally:
            response.close()
        return landed

    # -- this instance

    def _present(self, item: Download) -> Present:
        """What is there of an item; to be pinned, a file that is gone or damaged still has the hash that was learnt of it."""
        if item.key in self._files:
            return _together([self._present(file) for file in self._files[item.key]])
        found, record = self._found(item), existing.record_of(self._context, item)
        is_of_item = record.url in existing.sources_of(item) and item.sha256 in (None, record.sha256)
        if not self._pin or found.state == "there" or record.sha256 is None or not is_of_item:
            return found
        return replace(found, size_bytes=record.size, sha256=record.sha256)

    def _found(self, item: Download) -> Present:
        """Right as far as can be told without reading it, but what nobody else tells the hash of."""
        answers = [self._answers[url] for url in (item.url, *item.mirrors) if url in self._answers]
        sizes = [item.size_bytes, *(each.size_bytes for each in answers)]
        size = next((each for each in sizes if each is not None), None)
        name = next((each.name for each in answers if each.name), None)
        record = existing.record_of(self._context, item)
        is_ours = bool(record) and not existing.is_substitute(record, item)
        path = item.path + (name or "") if item.path.endswith("/") else item.path
        if path.endswith("/") and is_ours:
            path = record.path
        if path.endswith("/"):
            return Present("absent", size or 0)
        final = os.path.join(self._context.workspace, path)
        try:
            found = os.stat(final)
        except OSError:
            landed = landed_bytes(final)
            return Present("partial" if landed else "absent", max(0, (size or 0) - landed))
        is_same = existing.is_as_recorded(record, final)
        is_recorded = is_same and item.sha256 in (None, record.sha256)
        is_touched = record.path == final and not is_same and record.sha256 is not None
        if is_recorded or size == found.st_size or (size is None and self._pin and not is_touched):
            sha256 = record.sha256 if is_recorded else None
            if self._pin and sha256 is None and not any([item.sha256, *(each.sha256 for each in answers)]):
                sha256 = self._read(final, record, is_touched=is_touched)
                if sha256 is None:
                    return Present("other", size or 0)
            return Present("there", 0, size_bytes=found.st_size, sha256=sha256)
        return Present("other", size or 0)

    def _read(self, final: str, record: existing.FileRecord, *, is_touched: bool) -> Optional[str]:
        """The hash of a file that nobody else tells; None where it is known to be another than what was brought."""
        try:
            sha256 = verify.sha256_of(final, stop=self._context.is_over)
        except OSError:
            return None
        return None if is_touched and sha256 != record.sha256 else sha256

    def _head(self, repo: Repo) -> str:
        path = os.path.join(self._context.workspace, repo.path)
        if not os.path.exists(os.path.join(path, ".git")):
            return ""
        return Git(path, self._context, lambda line: None).line("rev-parse", "--verify", "--quiet", "HEAD")


def _difference(one: Download, other: Download) -> str:
    """How two files surely differ; empty where they may be the same."""
    if one.sha256 and other.sha256:
        return "" if one.sha256 == other.sha256 else "their sha256 differ"
    if None in (one.size_bytes, other.size_bytes) or one.size_bytes == other.size_bytes:
        return ""
    return f"{one.size_bytes} and {other.size_bytes} bytes"


def _urls_of(item: Download) -> List[str]:
    return [item.url, *item.mirrors, *([item.substitute.url] if item.substitute else [])]


def _together(files: Sequence[Present]) -> Present:
    """What is there of a repository, from what is there of its files."""
    states = {file.state for file in files}
    return Present(states.pop() if len(states) == 1 else "partial", sum(file.missing_bytes for file in files))


def _refused(url: str, failure: Failure, began: float) -> SourceTold:
    return SourceTold(
        failure.class_,
        redaction.public_url(url),
        message=failure.message,
        case=failure.case,
        about=failure.about,
        retriable=failure.retriable,
        seconds=_since(began),
    )


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
