"""How the disk differs from a plan: what is missing, extra, of the wrong size, of the wrong content.

Reads, and hashes, what is there; changes nothing. Only on request does it touch a wrong file's time, so that the
next run looks at its content instead of trusting its record.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, FrozenSet, Iterator, List, Optional

from ..contract.failures import Failure
from ..contract.plan import Download, File, Plan, Repo
from ..downloads import Sources, existing, verify
from ..downloads.sources import repositories
from ..host.facts import find_facts
from ..run import conditions
from ..run.context import Context
from ..run.start import say
from ..steps.git import Git
from .query import nearest_folder, quiet_context, read_request, standing_workspace

WITHIN_S = 1800.0
HASHES_AT_ONCE = 4
MODEL_SUFFIXES = frozenset(
    (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx", ".engine", ".zip")
)


def audit_main(argv: List[str]) -> int:
    """``audit``: ``{plan, secrets?, is_quick?, distrust?}`` -> ``{workspace, items: [{item kind level state …}], extra}``.

    ``is_quick`` believes the record of a file that has not been touched since it was verified; ``distrust`` lets no
    record vouch for a wrong file any more.
    """
    request = read_request()
    plan = Plan.from_json(request["plan"])
    root = standing_workspace(plan).root
    of_one_run = frozenset(file.path for file in plan.files if "${run_id}" in file.content)
    plan = plan.bind(workspace=root, home=os.path.expanduser("~"), run_id="audit")
    context = quiet_context(root, within_s=WITHIN_S, secrets=request.get("secrets"))
    audit = Audit(plan, context, is_quick=bool(request.get("is_quick")), of_one_run=of_one_run)
    items = list(audit.items())
    if request.get("distrust"):
        for item in items:
            if item["state"] == "wrong_hash":
                os.utime(item["path"])
    say({"workspace": root, "items": items, "extra": sorted(audit.extra())})
    return 0


class Audit:
    """Compares one bound plan with the disk. The files *of_one_run* hold its id: that they are there must do."""

    def __init__(
        self, plan: Plan, context: Context, *, is_quick: bool, of_one_run: FrozenSet[str] = frozenset()
    ) -> None:
        self._plan = plan
        self._context = context
        self._is_quick = is_quick
        self._of_one_run = of_one_run
        access = Sources(plan.secrets, context.secrets)
        self._files, self._unlisted = repositories.expand(plan.downloads, access, context)

    def items(self) -> Iterator[Dict[str, Any]]:
        """Every download, repo and small file of the plan, with its ``state``."""
        facts = find_facts(self._context.workspace) if any(item.when for item in self._files) else {}
        standing = quiet_context(
            nearest_folder(self._context.workspace),
            within_s=WITHIN_S,
            secrets=self._context.secrets,
            has_state=False,
        )
        with ThreadPoolExecutor(max_workers=HASHES_AT_ONCE) as pool:
            files = [
                (
                    item,
                    conditions.unmet(item.when, facts, standing) if item.when else None,
                    pool.submit(self._download, item),
                )
                for item in self._files
            ]
            for item, unmet, found in files:
                about = {"state": "skipped", "message": unmet} if unmet else found.result()
                yield dict(about, **self._named(item), kind="download", level=item.level)
        for item, failure in self._unlisted:
            about = {"state": "unknown", "message": failure.message}
            yield dict(about, **self._named(item), kind="download", level=item.level)
        for repo in self._plan.repos:
            try:
                about = self._repo(repo)
            except Failure as failure:
                about = {"state": "unknown", "message": failure.message}
            yield dict(about, item=repo.path, kind="repo", level=repo.level)
        for file in self._plan.files:
            yield dict(self._file(file), item=file.path, kind="file", level=file.level)

    def extra(self) -> Iterator[str]:
        """Model files beside the plan's own, and checkouts beside its checkouts, that it does not name."""
        finals = (self._final(item) for item in self._files)
        ours = {final for final in finals if final is not None}
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

    def _named(self, item: Download) -> Dict[str, str]:
        """The item's name for people, its key, and the key of the plan's item that it belongs to."""
        final = self._final(item)
        name = os.path.relpath(final, self._context.workspace) if final is not None else None
        of = item.of if isinstance(item, repositories.RepositoryFile) else item.key
        return {
            "item": name if name and item.path.endswith("/") else item.label,
            "key": item.key,
            "of": of,
        }

    def _download(self, item: Download) -> Dict[str, Any]:
        final = self._final(item)
        record = existing.record_of(self._context, item)
        if item.substitute is not None and (final is None or not os.path.exists(final)):
            other = self._path(item.substitute.path)
            if other.endswith("/") and existing.is_substitute(record, item):
                other = str(record["path"])
            if os.path.isfile(other):
                return {
                    "state": "substituted",
                    "path": other,
                    "message": f"`{item.substitute.path}` stands in for it",
                }
        if final is None:
            return {
                "state": "missing",
                "path": self._path(item.path),
                "message": "no run has brought it, so its name is not known",
            }
        try:
            found = os.stat(final)
        except OSError:
            part = os.path.exists(final + ".part")
            return {
                "state": "partial" if part else "missing",
                "path": final,
                "message": "a part of it is there" if part else "it is not there",
            }
        about: Dict[str, Any] = {"path": final, "size_bytes": found.st_size}
        if item.size_bytes not in (None, found.st_size):
            message = f"it has {found.st_size} bytes, not {item.size_bytes}"
            return dict(about, state="wrong_size", message=message)
        wanted = item.sha256 or record.get("sha256")
        if wanted is None:
            return dict(about, state="ok", message="there; nothing says what it must hold", sha256=None)
        is_untouched = existing.is_as_recorded(record, found) and record.get("sha256") == wanted
        has = wanted if self._is_quick and is_untouched else verify.sha256_of(final)
        if has != wanted:
            message = f"its sha256 is {str(has)[:12]}…, not {wanted[:12]}…"
            return dict(about, state="wrong_hash", message=message, sha256=has)
        return dict(about, state="ok", message="", sha256=has)

    def _repo(self, repo: Repo) -> Dict[str, Any]:
        path = self._path(repo.path)
        if not os.path.exists(os.path.join(path, ".git")):
            return {"state": "missing", "path": path, "message": "there is no checkout"}
        git = Git(path, self._context, lambda line: None)
        head = git.line("rev-parse", "--verify", "--quiet", "HEAD")
        about = {"path": path, "commit": head}
        record = self._context.state.get("repo", repo.path) or {}
        wanted = repo.ref if _is_commit(repo.ref) else record.get("commit")
        if wanted and head != wanted:
            return dict(about, state="wrong_commit", message=f"it is at {head[:12]}, not {wanted[:12]}")
        changed = [
            line
            for line in git.run("status", "--porcelain", "--untracked-files=no")
            if line[:2].strip() and line[2:3] == " "
        ]
        if changed:
            return dict(
                about, state="changed", message=f"{len(changed)} tracked file(s) were changed by hand"
            )
        return dict(about, state="ok", message="")

    def _file(self, file: File) -> Dict[str, Any]:
        path = self._path(file.path)
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as opened:
                is_same = file.path in self._of_one_run or opened.read() == file.content
        except OSError:
            return {"state": "missing", "path": path, "message": "it is not there"}
        message = "" if is_same else "its content is not the plan's"
        return {"state": "ok" if is_same else "wrong_content", "path": path, "message": message}

    def _final(self, item: Download) -> Optional[str]:
        """Where the file is; one that took its server's name, as the run that fetched it recorded, else None."""
        if not item.path.endswith("/"):
            return self._path(item.path)
        record = existing.record_of(self._context, item)
        is_ours = record and not existing.is_substitute(record, item)
        return str(record["path"]) if is_ours else None

    def _path(self, path: str) -> str:
        return os.path.join(self._context.workspace, path)


def _is_commit(ref: Optional[str]) -> bool:
    return ref is not None and len(ref) == 40 and all(digit in "0123456789abcdef" for digit in ref)


def _listed(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
