"""What a branch, a tag or a commit means at a source: asked there, before anything is fetched."""

from __future__ import annotations

import re
from typing import Dict, NamedTuple, Optional

from ..contract.failures import Failure
from ..contract.redaction import public_url
from .git import Git

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_BRANCH = "refs/heads/"


class Target(NamedTuple):
    """What a source has for the wanted ref. `branch` is set when it names one (or the default)."""

    commit: str
    refspec: str
    branch: Optional[str] = None


def resolve(url: str, ref: Optional[str], git: Git) -> Target:
    """What *ref* means at *url*: a branch before a tag before a commit; None is the default branch.

    A full commit is taken at its word, without asking.

    Raises:
        Failure: the source cannot be asked; `not_found` when it has no such ref.
    """
    if ref is not None and re.fullmatch(r"[0-9a-f]{40}", ref):
        return Target(ref, ref)
    if ref is None:
        return _default(url, git)
    branch, tag = f"{_BRANCH}{ref}", f"refs/tags/{ref}"
    found = _listed(git.run("ls-remote", "--", url, ref, branch, tag, f"{tag}^{{}}"))
    if branch in found:
        return Target(found[branch], branch, ref)
    if tag in found:
        return Target(
            found.get(f"{tag}^{{}}", found[tag]), tag
        )  # ^{} is the commit that an annotated tag is about
    if ref in found and ref.startswith("refs/"):
        return Target(found[ref], ref)
    if _COMMIT.fullmatch(ref):
        return Target(ref, ref)
    raise _not_found(url, f"`{ref}` is no branch, tag or commit of it")


def _default(url: str, git: Git) -> Target:
    lines = git.run("ls-remote", "--symref", "--", url, "HEAD")
    found = _listed(lines)
    if "HEAD" not in found:
        raise _not_found(url, "the source has no commit")
    links = [line.partition("\t")[0][len("ref: ") :] for line in lines if line.startswith(f"ref: {_BRANCH}")]
    if not links:
        return Target(found["HEAD"], "HEAD")
    return Target(found["HEAD"], links[0], links[0][len(_BRANCH) :])


def _listed(lines: "list[str]") -> Dict[str, str]:
    """Commit by ref, from the lines of ``ls-remote``; what else git says has no tab."""
    pairs = (line.partition("\t") for line in lines)
    return {name: commit for commit, tab, name in pairs if tab and not commit.startswith("ref: ")}


def _not_found(url: str, why: str) -> Failure:
    return Failure("not_found", f"{public_url(url)}: {why}", case="ref")
