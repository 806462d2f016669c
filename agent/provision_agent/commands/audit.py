"""How the disk differs from a plan: what is missing, extra, of the wrong size, of the wrong content.

Reads, and hashes, what is there; changes nothing. Only on request does it touch a wrong file's time, so that the
next run looks at its content instead of trusting its record.
"""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import FrozenSet, Iterator, List, Optional, Tuple, Union

from ..contract.failures import Failure
from ..contract.findings import ClashTold, SkippedTold
from ..contract.messages import AuditAnswer, AuditItem, AuditRequest
from ..contract.plan import Download, File, Plan, Repo
from ..contract.steps import SIZE_ONLY, STEPS
from ..downloads import Sources, existing, verify
from ..downloads.members import Damage, Members
from ..downloads.sources import repositories
from ..downloads.sources.signed import SIGNED
from ..files.records import Arrived
from ..run import conditions
from ..run.answering import answer
from ..run.context import Context
from ..steps import repo_changes
from ..steps.git import Git
from .audit_packages import packages_of
from .query import quiet_context, standing_workspace

WITHIN_S = 1800.0
HASHES_AT_ONCE = 4
MADE = ("python", "repos", "downloads", "files")
"""Steps whose items can be compared with the disk."""
MEMBERS_MOST = 1000
"""Damaged members of one archive that are told by name."""
MODEL_SUFFIXES = frozenset(
    (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx", ".engine", ".zip")
)


def audit_main(argv: List[str]) -> int:
    """``audit``: every item of a plan as it is on the disk, and what nobody named: see `AuditRequest`."""
    return answer(AuditRequest, _audit)


def _audit(request: AuditRequest) -> AuditAnswer:
    plan = Plan.from_json(request.plan)
    root = standing_workspace(plan).root
    of_one_run = frozenset(file.path for file in plan.files if "${run_id}" in file.content)
    plan = plan.bind(workspace=root, home=os.path.expanduser("~"), run_id="audit")
    SIGNED.take(request.signed)
    context = quiet_context(root, within_s=WITHIN_S, secrets=request.secrets, offered=request.offered)
    audit = Audit(plan, context, is_quick=request.is_quick, of_one_run=of_one_run)
    items = tuple(audit.items())
    if request.distrust:
        for item in items:
            if item.state == "wrong_hash" and item.kind in ("download", "member") and item.path is not None:
                os.utime(item.path)
    return AuditAnswer(root, items, tuple(sorted(audit.extra())))


class Audit:
    """Compares one bound plan with the disk. The files *of_one_run* hold its id: that they are there must do."""

    def __init__(
        self, plan: Plan, context: Context, *, is_quick: bool, of_one_run: FrozenSet[str] = frozenset()
    ) -> None:
        self._chosen = conditions.selected_here(plan, context)
        self._plan = self._chosen.plan
        self._context = context
        self._is_quick = is_quick
        self._of_one_run = of_one_run
        access = Sources(plan.secrets, context.secrets)
        self._files, self._unlisted = repositories.expand(self._plan.downloads, access, context)

    def items(self) -> Iterator[AuditItem]:
        """Every download, repo, small file and package layer of the plan, with its ``state``; of archives what is wrong inside."""
        yield from self._unwanted()
        with ThreadPoolExecutor(max_workers=HASHES_AT_ONCE) as pool:
            for item, found in [(item, pool.submit(self._download, item)) for item in self._files]:
                yield found.result()
                yield from self._members(item)
        for item, failure in self._unlisted:
            yield self._of_download(item, "unknown", message=failure.message)
        for repo in self._plan.repos:
            try:
                yield self._repo(repo)
            except Failure as failure:
                yield AuditItem(repo.path, "repo", repo.level, "unknown", failure.message)
        yield from map(self._file, self._plan.files)
        yield from packages_of(self._plan, self._context, is_quick=self._is_quick)

    def _unwanted(self) -> Iterator[AuditItem]:
        """What is skipped here, and what cannot be told because several are wanted in one place."""
        told: List[Tuple[Union[SkippedTold, ClashTold], str, str]] = []
        told += [(each, "skipped", each.reason) for each in self._chosen.skipped]
        told += [(clash, "unknown", clash.message) for clash in self._chosen.clashes]
        for item, state, message in told:
            if item.step in MADE:
                kind, of = STEPS[item.step].kind, item.key if item.step == "downloads" else None
                yield AuditItem(item.item, kind, item.level, state, message, key=item.key, of=of)

    def extra(self) -> Iterator[str]:
        """Model files beside the plan's own, and checkouts beside its checkouts, that it does not name."""
        finals = (self._final(item) for item in self._files)
        ours = {final for final in finals if final is not None}
        ours.update(
            self._path(each.key) for each in self._chosen.skipped if each.step == "downloads"
        )  # another instance may have brought it
        sent = [(self._path(item.path), item) for item in self._plan.uploads]
        for place, item in sent:
            names = Arrived(self._context.workspace, item.key).paths()
            ours.update(os.path.join(place, name) if name else place for name in names)
        repos = {self._path(repo.path) for repo in self._plan.repos}
        for folder in sorted({os.path.dirname(path) for path in ours}):
            for name in _listed(folder):
                path = os.path.join(folder, name)
                if (
                    os.path.isfile(path)
                    and path not in ours
                    and os.path.splitext(name)[1].lower() in MODEL_SUFFIXES
                ):
                    yield os.path.relpath(path, self._context.workspace)
        for folder in sorted({os.path.dirname(path) for path in repos}):
            for name in _listed(folder):
                path = os.path.join(folder, name)
                if os.path.isdir(os.path.join(path, ".git")) and path not in repos:
                    yield os.path.relpath(path, self._context.workspace)

    # -- one item

    def _of_download(
        self,
        item: Download,
        state: str,
        *,
        message: str = "",
        path: Optional[str] = None,
        size_bytes: Optional[int] = None,
        sha256: Optional[str] = None,
    ) -> AuditItem:
        """With its name for people, its key, and the key of the plan's item that it belongs to."""
        final = self._final(item)
        name = os.path.relpath(final, self._context.workspace) if final is not None else None
        return AuditItem(
            item=name if name and item.path.endswith("/") else item.label,
            kind="download",
            level=item.level,
            state=state,
            message=message,
            path=path,
            key=item.key,
            of=item.of if isinstance(item, repositories.RepositoryFile) else item.key,
            size_bytes=size_bytes,
            sha256=sha256,
        )

    def _download(self, item: Download) -> AuditItem:
        final = self._final(item)
        record = existing.record_of(self._context, item)
        if item.substitute is not None and (final is None or not os.path.exists(final)):
            other = self._path(item.substitute.path)
            if other.endswith("/") and existing.is_substitute(record, item):
                other = record.path
            if os.path.isfile(other):
                message = f"`{item.substitute.path}` stands in for it"
                return self._of_download(item, "substituted", path=other, message=message)
        if final is None:
            message = "no run has brought it, so its name is not known"
            return self._of_download(item, "missing", path=self._path(item.path), message=message)
        try:
            found = os.stat(final)
        except OSError:
            if os.path.exists(final + ".part"):
                return self._of_download(item, "partial", path=final, message="a part of it is there")
            message = "it is a link to nothing" if os.path.islink(final) else "it is not there"
            return self._of_download(item, "missing", path=final, message=message)
        about = self._of_download(item, "ok", path=final, size_bytes=found.st_size)
        if not stat.S_ISREG(found.st_mode):
            return replace(about, state="wrong_kind", message="it is no file")
        is_known = record.path == final and item.sha256 is None
        size_bytes = record.size if item.size_bytes is None and is_known else item.size_bytes
        if size_bytes not in (None, found.st_size):
            message = f"it has {found.st_size} bytes, not {size_bytes}"
            return replace(about, state="wrong_size", message=message)
        if not found.st_mode & stat.S_IRUSR:
            return replace(about, state="wrong_mode", message="its owner may not read it")
        wanted = item.sha256 or record.sha256
        if wanted is None:
            return replace(about, message=f"{SIZE_ONLY}: nothing says what it must hold")
        is_untouched = record.fits(found) and record.sha256 == wanted
        has = wanted if self._is_quick and is_untouched else verify.sha256_of(final)
        if has != wanted:
            message = f"its sha256 is {str(has)[:12]}…, not {wanted[:12]}…"
            return replace(about, state="wrong_hash", message=message, sha256=has)
        return replace(about, sha256=has)

    def _members(self, item: Download) -> Iterator[AuditItem]:
        """What an archive that is there brought, and is not as it was unpacked."""
        final, record = self._final(item), existing.record_of(self._context, item)
        if item.unpack == "no" or final is None or not os.path.isfile(final):
            return
        members = Members(self._context, item, final, record.sha256)
        damaged = members.damaged(reads_bytes=not self._is_quick, stop=self._context.is_over)
        if damaged is None or not record.unpacked:
            damaged = [Damage(final, "missing", "no run remembers what it unpacked from it")]
        for path, state, message in damaged[:MEMBERS_MOST]:
            name = os.path.relpath(path, os.path.realpath(self._context.workspace))
            about = self._of_download(item, state, message=message, path=path)
            yield replace(about, item=name, kind="member", key=None)

    def _repo(self, repo: Repo) -> AuditItem:
        path = self._path(repo.path)
        about = AuditItem(repo.path, "repo", repo.level, "ok", path=path)
        if not os.path.exists(os.path.join(path, ".git")):
            return replace(about, state="missing", message="there is no checkout")
        git = Git(path, self._context, lambda line: None)
        head = git.line("rev-parse", "--verify", "--quiet", "HEAD")
        about = replace(about, commit=head)
        record = self._context.state.get("repo", repo.path) or {}
        wanted = repo.ref if _is_commit(repo.ref) else str(record.get("commit") or "")
        if wanted and head != wanted:
            message = f"it is at {head[:12]}, not {wanted[:12]}"
            return replace(about, state="wrong_commit", message=message)
        changed = repo_changes.changed_files(repo, git)
        if changed:
            message = f"{len(changed)} tracked file(s) are not as committed: {repo_changes.named(changed)}"
            return replace(about, state="changed", message=message)
        return about

    def _file(self, file: File) -> AuditItem:
        about = AuditItem(file.path, "file", file.level, "ok", path=self._path(file.path))
        try:
            mode = os.lstat(str(about.path)).st_mode
            if stat.S_ISLNK(mode):
                return replace(about, state="wrong_kind", message="it is a link, not a file")
            with open(str(about.path), encoding="utf-8", errors="surrogateescape", newline="") as opened:
                is_same = file.path in self._of_one_run or opened.read() == file.content
        except OSError:
            return replace(about, state="missing", message="it is not there")
        if not is_same:
            return replace(about, state="wrong_content", message="its content is not the plan's")
        if stat.S_IMODE(mode) != int(file.mode, 8):
            message = f"its mode is {stat.S_IMODE(mode):04o}, not {file.mode}"
            return replace(about, state="wrong_mode", message=message)
        return about

    def _final(self, item: Download) -> Optional[str]:
        """Where the file is; one that took its server's name, as the run that fetched it recorded, else None."""
        if not item.path.endswith("/"):
            return self._path(item.path)
        record = existing.record_of(self._context, item)
        is_ours = record and not existing.is_substitute(record, item)
        return record.path if is_ours else None

    def _path(self, path: str) -> str:
        return os.path.join(self._context.workspace, path)


def _is_commit(ref: Optional[str]) -> bool:
    return ref is not None and len(ref) == 40 and all(digit in "0123456789abcdef" for digit in ref)


def _listed(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
