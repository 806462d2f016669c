"""Git checkouts: the wanted commit in the wanted folder, however the folder looked before.

What people changed in a checkout is never destroyed: it is left as it is, with a warning where that is what the plan
allows (no ref, or a branch), and as a failure where a pinned tag or commit is missed by it; a repair sets it aside. What
was only lost comes back (`repo_changes`). What an interrupted
checkout left behind is recognised by a marker and done again. A folder that holds other files already (partial
downloads, say) is no obstacle.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from typing import Dict, List, Mapping, Optional, Sequence

from ..contract import retry
from ..contract.failures import Failure
from ..contract.plan import Repo
from ..contract.redaction import public_url
from ..run.context import Context
from ..run.outages import Outages
from ..run.writing import folder_at, knows_links, remember_links
from . import refs, repo_changes, repo_sources
from .git import SUBMODULE_PROTOCOLS, Git
from .progress import Progress

ROUNDS = retry.Schedule(attempts=3, base_s=2.0, cap_s=20.0)
FETCH_S = 900.0
MARKER = "provision-incomplete"
"""A file in .git while the first checkout of a folder is under way."""
_STALE_LOCK_S = 600.0
_BROUGHT = re.compile(r"(?:clone|fetch|checkout: moving|pull.*: Fast-forward|merge .*: Fast-forward)\b")
"""How git's log of HEAD begins where a commit came from elsewhere, and was not made here."""
_KEPT = "refs/provision/kept"
"""Below this a commit is held that nothing else would hold."""
_FROM_ELSEWHERE = ("refs/remotes", "refs/tags", "refs/provision")


def checkout(repo: Repo, context: Context, *, sets_aside: bool = False) -> str:
    """Bring *repo* to its ref and report ``repo_finished`` or ``repo_skipped``.

    Args:
        sets_aside: Take what people changed out of the way, into git, instead of leaving the folder as it is.

    Returns:
        The commit that is checked out.

    Raises:
        Failure: no source has it, or the folder's own files are in the way (`conflict`); the last source's reason.
    """
    path = os.path.join(context.workspace, repo.path)
    before = repo_changes.what_is_there(path)
    with Progress(context, repo.path, repo.level, kind="repo") as progress:
        work = _Checkout(repo, path, context, progress, sets_aside=sets_aside)
        work.remember_links_of_earlier_releases()
        if (kept := work.reason_to_keep()) is not None:
            context.report("repo_skipped", item=repo.path, level=repo.level, reason=kept, commit=work.head())
            return work.head()
        context.report("repo_started", item=repo.path, level=repo.level, url=public_url(repo.url))
        started = time.monotonic()
        try:
            is_new = work.from_any_source()
        except Failure as failure:
            may_stay = failure.retriable or failure.class_ == "offline"
            if not (may_stay and work.is_as_recorded()):
                if not work.head():
                    repo_changes.leave_as_before(path, before, context)
                raise
            why = f"no source can be asked for news ({failure.message})"
            context.report("warning", message=f"{repo.path}: {why}; {work.head()[:12]} stays")
            is_new = False
    commit = work.head()
    if is_new:
        seconds = round(time.monotonic() - started, 3)
        context.report("repo_finished", item=repo.path, level=repo.level, commit=commit, duration_s=seconds)
    else:
        context.report("repo_skipped", item=repo.path, level=repo.level, reason="verified", commit=commit)
    return commit


class _Checkout:
    """One folder on its way to one ref."""

    def __init__(
        self, repo: Repo, path: str, context: Context, progress: Progress, *, sets_aside: bool
    ) -> None:
        self._repo = repo
        self._sets_aside = sets_aside
        self._path = path
        self._context = context
        self._progress = progress
        folder_at(context, path).close()
        self._git = Git(path, context, progress.line)
        self._elsewhere = Git(context.workspace, context, progress.line)
        """Asks sources, whatever is in the folder."""
        self._seen = "" if sets_aside else self._commit_if_unchanged()
        """The commit of a folder that is just what an earlier run made of it; empty for any other."""

    def _commit_if_unchanged(self) -> str:
        """The recorded commit, where HEAD and every tracked file are still as it has them."""
        commit = str(self._recorded().get("commit", ""))
        marker, index = (os.path.join(self._path, ".git", name) for name in (MARKER, "index"))
        is_whole = os.path.isfile(index) and not os.path.exists(marker) and not self._repo.submodules
        is_same = is_whole and self._recorded() == self._record(commit)
        return commit if is_same and repo_changes.is_at(commit, self._git) else ""

    def head(self) -> str:
        """The commit that is checked out; empty when there is none."""
        if self._seen:
            return self._seen
        if not self._is_repository():
            return ""
        return self._git.line("rev-parse", "--verify", "--quiet", "HEAD^{commit}")

    def reason_to_keep(self) -> Optional[str]:
        """Why nothing needs to be done, or nothing may be done; None when there is work."""
        if self._seen:
            return "verified" if self._repo.ref == self._seen else None
        if not self._is_whole():
            return None
        repo_changes.restore_lost(self._repo, self._path, self._git, self._context)
        if self._sets_aside:
            repo_changes.set_aside(self._repo, self._path, self._git, self._context)
        changes = None if self._sets_aside else self._own_changes()
        if changes is not None:
            self._require_ref(changes)
            self._context.report("warning", message=f"{self._repo.path} is left as it is: {changes}")
            return "local changes"
        pinned = self._repo.ref is not None and self._repo.ref == self.head()
        return "verified" if pinned and not self._needs_submodules() else None

    def is_as_recorded(self) -> bool:
        """True when the folder is still what an earlier run made of the same ref."""
        return self._is_whole() and self._recorded() == self._record(self.head())

    def from_any_source(self) -> bool:
        """Try every source in turn, several rounds while that may help; False when it was there already."""
        # what is there will do where the source cannot be asked for news: that is not worth a wait
        outages = Outages(0.0) if self.is_as_recorded() else self._context.outages
        say = self._progress.say
        order = repo_sources.Rounds(
            self._repo, self._from, self._context, rounds=ROUNDS, outages=outages, say=say
        )
        return order.run()

    def _from(self, url: str) -> bool:
        target = refs.resolve(url, self._repo.ref, self._elsewhere)
        if self._is_whole() and self.head().startswith(target.commit) and not self._needs_submodules():
            self._remember()
            return False
        self._begin(url)
        commit = self._fetch(url, target)
        self._remember_links(commit, known=self._odd_entries(self.head()) if self._is_whole() else ())
        self._switch(commit, target.branch)
        if self._repo.submodules:
            self._update_submodules(url)
        self._finish(commit)
        return True

    def remember_links_of_earlier_releases(self) -> None:
        """What was checked out before links were remembered: all of its links count as brought."""
        if self._recorded() and not knows_links(self._context, self._repo.path):
            self._remember_links(self.head(), known=())

    def _remember_links(self, commit: str, *, known: Sequence[str]) -> None:
        """Before *commit* is here: the links that it brings, and are not *known* here, are not the user's own."""
        entries = [each for each in self._odd_entries(commit) if each not in known]
        links = {_name_of(each) for each in entries if each.startswith("120000 ")}
        modules = {_name_of(each) for each in entries if each.startswith("160000 ")}
        remember_links(self._context, self._repo.path, links, all_below=modules)

    def _odd_entries(self, commit: str) -> List[str]:
        """The links and submodules of *commit*, as git lists them."""
        silent = Git(self._path, self._context, lambda line: None)
        listed = silent.run("-c", "core.quotePath=true", "ls-tree", "-r", commit, timeout_s=FETCH_S)
        return [line for line in listed if line.startswith(("120000 ", "160000 "))]

    # -- what people did here

    def _require_ref(self, changes: str) -> None:
        """What must be left as it is has to be at the wanted ref all the same.

        Raises:
            Failure: `conflict` when it is at another commit than the pinned one, or not on the wanted branch.
        """
        ref, head = self._repo.ref, self.head()
        if ref is None or ref == head:
            return
        try:
            target: Optional[refs.Target] = self._target()
        except Failure:
            if self.is_as_recorded():
                return
            target = None
        if target is not None and (head.startswith(target.commit) or self._is_on(target.branch)):
            return
        wanted = f"`{ref}`" if target is None or target.commit == ref else f"`{ref}` ({target.commit[:12]})"
        raise Failure(
            "conflict",
            f"`{self._repo.path}` stays at {head[:12]} and not at {wanted}: {changes}",
            case="local_changes" if repo_changes.changed_files(self._repo, self._git) else "local_commits",
            about={"git": f"git -C {shlex.quote(self._path)}"},
        )

    def _target(self) -> refs.Target:
        """What the first source that can be asked has for the ref."""
        for url in (self._repo.url, *self._repo.mirrors):
            try:
                return refs.resolve(url, self._repo.ref, self._elsewhere)
            except Failure as failure:
                last = failure
        raise last

    def _is_on(self, branch: Optional[str]) -> bool:
        """True when *branch* is what is checked out, at whatever commit: nobody pins a commit with it."""
        record = self._recorded()
        is_ours = record.get("ref") == self._repo.ref and record.get("commit") == self.head()
        return branch is not None and (is_ours or self._git.line("symbolic-ref", "--short", "HEAD") == branch)

    def _is_repository(self) -> bool:
        own = os.path.join(self._path, ".git")
        return os.path.exists(own) and self._git.succeeds("rev-parse", "--git-dir")

    def _is_whole(self) -> bool:
        """True when a checkout was finished here once, by whomever."""
        files = [os.path.join(self._path, ".git", name) for name in (MARKER, "index")]
        if os.path.isfile(os.path.join(self._path, ".git")):
            return bool(self.head())  # a worktree or a submodule: its index is elsewhere
        return bool(self.head()) and not os.path.exists(files[0]) and os.path.exists(files[1])

    def _own_changes(self) -> Optional[str]:
        """What people did here that a checkout would undo; None when nothing."""
        changed = repo_changes.changed_files(self._repo, self._git)
        if changed:
            return f"{len(changed)} tracked file(s) were changed: {repo_changes.named(changed)}"
        head = self.head()
        return None if self._is_known(head) else f"its commit {head[:12]} is known to no remote"

    def _is_known(self, commit: str) -> bool:
        """True when *commit* came from a source: nobody's own work is lost with it."""
        record = self._recorded()
        places = list(_FROM_ELSEWHERE)
        if not self._git.succeeds("symbolic-ref", "--quiet", "HEAD"):
            places.append("refs/heads")  # no branch is at stake: one that holds it goes on holding it
        return (
            record.get("commit") == commit
            or bool(self._git.line("for-each-ref", "--count=1", "--contains", commit, *places))
            or self._was_brought(commit)
        )

    def _was_brought(self, commit: str) -> bool:
        """True when git's log says that *commit* came from elsewhere, as ``git checkout FETCH_HEAD`` leaves it."""
        log = self._git.run("log", "--walk-reflogs", "--max-count=200", "--format=%H %gs", "HEAD", "--")
        came = [line.partition(" ")[2] for line in log if line.startswith(commit)]
        return bool(came) and all(_BROUGHT.match(how) for how in came)

    def _needs_submodules(self) -> bool:
        lines = self._git.run("submodule", "status", "--recursive") if self._repo.submodules else []
        return any(line[:1] in "-+U" for line in lines)

    def _begin(self, url: str) -> None:
        """Make the folder a repository that can fetch, and clear what an interrupted git left behind."""
        self._seen = ""
        inside = os.path.join(self._path, ".git")
        if os.path.exists(inside) and not self._is_repository():
            aside = f"{inside}.broken-{time.time_ns():x}"
            os.rename(inside, aside)
            message = f"{self._repo.path}: a half-made repository was set aside as {os.path.basename(aside)}"
            self._context.report("warning", message=message)
        if not os.path.exists(inside):
            self._git.run("init", "--quiet")
        _remove_stale_locks(inside)
        if not self._git.line("config", "--get", "remote.origin.url"):
            self._git.run("config", "remote.origin.url", url)
            self._git.run("config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")

    def _fetch(self, url: str, target: refs.Target) -> str:
        """Bring the target's objects here, without history where the source can do that."""
        local = "refs/provision/wanted" if target.branch is None else f"refs/remotes/origin/{target.branch}"
        try:
            self._get("--depth=1", "--no-tags", "--", url, f"+{target.refspec}:{local}")
        except Failure as failure:
            if failure.class_ not in ("command", "not_found"):
                raise
            # the source serves no single commits, or no shallow ones: take all that it has
            everything = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
            is_shallow = self._git.line("rev-parse", "--is-shallow-repository") == "true"
            self._get(*(["--unshallow"] if is_shallow else []), "--", url, *everything)
        commit = self._git.line("rev-parse", "--verify", "--quiet", f"{target.commit}^{{commit}}")
        if not commit:
            raise Failure("not_found", f"{public_url(url)} does not have the commit {target.commit}")
        return commit

    def _get(self, *arguments: str) -> None:
        self._git.run("fetch", "--progress", "--force", *arguments, timeout_s=FETCH_S)

    def _switch(self, commit: str, branch: Optional[str]) -> None:
        """Put *commit* into the folder. Nothing of the user's can be lost: `reason_to_keep` has looked."""
        inside = os.path.join(self._path, ".git")
        marker = os.path.join(inside, MARKER)
        is_first = not self._is_whole()
        if is_first and not os.path.exists(marker) and not os.path.exists(os.path.join(inside, "index.lock")):
            self._require_no_other_files(commit)
        if is_first:
            with open(marker, "w", encoding="ascii") as file:
                file.write(commit)
        _remove_stale_locks(inside, older_than_s=0.0 if is_first else _STALE_LOCK_S)
        old = branch and self._git.line("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")
        if old and not self._is_known(old):
            message = f"{self._repo.path}: your branch `{branch}` has commits of its own and stays; checked out without it"
            self._context.report("warning", message=message)
            branch = None
        to = ["-B", branch, commit] if branch else ["--detach", commit]
        if not is_first:
            self._hold(self.head(), self._git)
        how = "--force" if is_first else "--no-overwrite-ignore"
        self._git.run("checkout", "--quiet", how, *to, timeout_s=FETCH_S)
        if branch:
            self._git.run("config", f"branch.{branch}.remote", "origin")
            self._git.run("config", f"branch.{branch}.merge", f"refs/heads/{branch}")

    def _hold(self, commit: str, git: Git) -> None:
        """Give a commit that came by no ref one of its own, so that it is never cleaned away."""
        if commit and not git.line("for-each-ref", "--count=1", "--contains", commit, *_FROM_ELSEWHERE):
            git.run("update-ref", f"{_KEPT}/{commit}", commit)

    def _require_no_other_files(self, commit: str) -> None:
        """Before the first checkout: a file of the user's under a tracked name stops it, unless it is the same."""
        self._git.run("read-tree", commit)
        try:
            gone = set(self._git.run("ls-files", "--deleted"))
            other = [name for name in self._git.run("ls-files", "--modified") if name not in gone]
        finally:
            os.unlink(os.path.join(self._path, ".git", "index"))  # nothing has been checked out yet
        if other:
            raise Failure(
                "conflict",
                f"`{self._repo.path}` holds other versions of {len(other)} file(s) of the repository, such as `{other[0]}`",
                case="repo_path_taken",
                about={"path": self._path},
            )

    def _update_submodules(self, url: str) -> None:
        """Bring them, by protocols that a repository may lead to; plain http only where it came by that itself."""
        for line in self._git.run("submodule", "status", "--recursive"):
            if line[:1] == "+":
                commit, _, rest = line[1:].partition(" ")
                name = re.sub(r" \([^()]*\)$", "", rest)
                self._hold(commit, Git(os.path.join(self._path, name), self._context, self._progress.line))
        update = ("submodule", "update", "--init", "--recursive")
        by = SUBMODULE_PROTOCOLS + (":http" if url.startswith("http://") else "")
        try:
            self._git.run(*update, "--depth=1", timeout_s=FETCH_S, protocols=by)
        except Failure as failure:
            if failure.class_ not in ("command", "not_found"):
                raise
            self._git.run(*update, timeout_s=FETCH_S, protocols=by)

    def _finish(self, commit: str) -> None:
        if self.head() != commit:
            raise Failure(
                "command",
                f"`{self._repo.path}` is at {self.head() or 'no commit'} after a checkout of {commit}",
            )
        self._remember()
        marker = os.path.join(self._path, ".git", MARKER)
        if os.path.exists(marker):
            os.unlink(marker)

    def _remember(self) -> None:
        self._context.state.put("repo", self._repo.path, self._record(self.head()))

    def _recorded(self) -> Mapping[str, object]:
        return self._context.state.get("repo", self._repo.path) or {}

    def _record(self, commit: str) -> Dict[str, object]:
        return {"url": public_url(self._repo.url), "ref": self._repo.ref, "commit": commit}


def _name_of(entry: str) -> str:
    """The path in a line of `git ls-tree`, which quotes what is not plain."""
    name = entry.partition("\t")[2]
    if not name.startswith('"'):
        return name
    plain = name[1:-1].encode("ascii", "replace").decode("unicode_escape")
    return os.fsdecode(plain.encode("latin-1", "replace"))


def _remove_stale_locks(inside: str, *, older_than_s: float = _STALE_LOCK_S) -> None:
    """A git that was killed leaves locks that stop every later one."""
    for name in ("index.lock", "shallow.lock", "HEAD.lock", "config.lock"):
        path = os.path.join(inside, name)
        try:
            if time.time() - os.stat(path).st_mtime >= older_than_s:
                os.unlink(path)
        except OSError:
            continue
