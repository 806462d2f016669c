"""What helps where the class of a failure alone says too little: one row per case, with the words for people.

The side that fails names the case and its particulars; the side that watches makes the words, from this table and
never from what the other one wrote. A particular that does not fit leaves the advice of the class. Pure.
"""

from __future__ import annotations

import re
from typing import Dict, Mapping, NamedTuple, Optional

MAX_PARTICULAR_CHARS = 2048
MAX_PARTICULARS = 8


class Case(NamedTuple):
    """Better advice than that of the class."""

    hint: str
    """What to do; ``{name}`` stands for a particular."""
    next: Optional[str] = None
    """A word of `verdicts.NEXT`; None: that of the class."""


CASES: Dict[str, Case] = {
    # -- the run as a whole
    "other_plan": Case(
        "`provision attach {run}` follows it, `provision stop {run}` ends it, `--replace` ends it and starts yours"
    ),
    "other_machine": Case(
        "stop that run, or choose another folder with `--workspace`: two machines may not share one"
    ),
    "run_ended": Case("choose another `--run-id`, or leave it out for a new one"),
    "login_in_url": Case(
        "take the login out of the URL, and list a secret with the host under `secrets` of the profile"
    ),
    "on_failure_going": Case("wait until it has ended; `{path}` on the instance says how far it is", "retry"),
    "just_beginning": Case("the same command again in a few seconds", "retry"),
    "other_version": Case("use one version of provision for one instance"),
    # -- tokens
    "token_refused": Case("the value of `{token}` is refused: make a new token, or give its account access"),
    "lock_misfit": Case(
        "make a lock for this machine with `provision lock --host …`, or take an instance that it is for",
        "fix_profile",
    ),
    "token_unset": Case("set `{token}` in your environment, then the same command again"),
    "token_unsendable": Case("correct the value of `{token}` in your environment"),
    "token_undeclared": Case(
        "list `{token}` with the URL's host under `secrets:` of the profile, and set it in your environment if it is not",
        "fix_profile",
    ),
    "token_needs_https": Case("no token goes over plain http: write the URL with `https://`", "fix_profile"),
    "no_secret_for_host": Case(
        "list a secret whose `hosts:` names the URL's host in the profile, and set it in your environment",
        "fix_profile",
    ),
    "licence": Case(
        "accept the licence on {page} with the account of your `{token}`, then the same command again"
    ),
    "licence_and_token": Case(
        "accept the licence on {page} and set `{token}` in your environment, named under `secrets:` of the profile"
    ),
    "secrets_unset": Case("set {names} in your environment, then the same command again"),
    # -- sources
    "refused_url": Case("the server refuses this URL: open it in a browser, then correct the profile"),
    "unknown_host": Case(
        "check the spelling of the host in the URL; if it is right, the instance's name server is not",
        "fix_profile",
    ),
    "proxy_kind": Case(
        "set an http:// proxy in `https_proxy` on the instance, or name the host in `no_proxy`",
        "fix_instance",
    ),
    "proxy_refuses": Case("check `https_proxy` and `no_proxy` on the instance", "fix_instance"),
    "unsafe_archive": Case("do not unpack it: look at it first"),
    "no_file_name": Case("give the item a `path` that ends in a file name"),
    "odd_name": Case(
        "leave that file out with `exclude`, or take the files one by one, each with a `path` of its own"
    ),
    "name_taken": Case(
        "move that file away on the instance, or give the item a `path` that ends in another file name",
        "fix_profile",
    ),
    "leads_out": Case(
        "write the path that the link leads to, or remove the link on the instance; a link of your own is followed",
        "fix_profile",
    ),
    "two_items_one_path": Case("give each of the two a `path` of its own that ends in a file name"),
    "no_pip": Case(
        "on the instance: install uv, or a pip into `{path}`; or name another folder under `python.venv`"
    ),
    "venv_read_only": Case("leave `python.venv` out, or name a folder that can be written"),
    "no_wheel": Case(
        "add the address of a wheel that fits to `wheels`, choose a version of torch that has one, or give `level: optional`"
    ),
    "would_compile": Case(
        "write it in `packages` with a prebuilt wheel (its `name` and `wheels`), or take an image with nvcc of torch's CUDA"
    ),
    "two_variants": Case("change their `when` so that on every instance one of them holds at most"),
    "patterns": Case(
        "correct `include` and `exclude`: they are compared with paths such as `unet/model.safetensors`"
    ),
    "did_you_mean": Case("did you mean `{name}`? correct the profile"),
    "no_such_revision": Case("there is no such branch, tag or commit: correct the part after `/resolve/`"),
    "no_such_repository": Case(
        "check the repository's name; or it is a private one, for which the profile names `{token}` under `secrets:` and "
        "your environment has it"
    ),
    "repository_hidden": Case(
        "check the repository's name; or it is a private one, which the account of your token may not see"
    ),
    "size_lie": Case("the source's answer is wrong: use a mirror or another source of the file"),
    "no_version": Case(
        "open `{url}` in a browser, and write the version that you want: `civitai:VERSION`", "fix_profile"
    ),
    "no_release": Case("see its releases on {page}, and correct the part after `@`", "fix_profile"),
    "no_asset": Case("the release has {names}: correct the part after the tag", "fix_profile"),
    "release_hidden": Case(
        "check the name of the repository; or it is a private one: set `{token}` in your environment to a token that may "
        "read its contents, then the same command again",
        "fix_credentials",
    ),
    "release_link": Case(
        "check the spelling; a file of a private repository's release is written `{form}`", "fix_profile"
    ),
    "coding": Case(
        "that compression cannot be undone here: use a mirror or another source of the file", "fix_profile"
    ),
    "file_url": Case("check the path after `file://`"),
    "form": Case("write one of {forms}"),
    "not_public": Case(
        "the object is not public, or is not there: check its name and make it public, or list a secret with an access "
        "token whose `hosts:` names the URL's host in the profile",
        "fix_profile",
    ),
    # -- buckets
    "bucket_key": Case(
        "check the key: it is taken as it stands, with its case, and nothing in it is escaped; `{url}` in the profile",
        "fix_profile",
    ),
    "bucket_name": Case(
        "check the bucket's name, and its `endpoint` under `buckets:` of the profile where it is not Amazon's",
        "fix_profile",
    ),
    "bucket_access_key": Case(
        "the store does not know the access key of `{bucket}`: check its value, and `endpoint` under `buckets:`",
        "fix_credentials",
    ),
    "bucket_secret_key": Case(
        "the secret key of `{bucket}` does not fit its access key: check the value, then the same command again",
        "fix_credentials",
    ),
    "bucket_token": Case(
        "the session of the keys of `{bucket}` is over: log in again (`aws sso login`), or set a new session token, then "
        "the same command again",
        "fix_credentials",
    ),
    "bucket_clock": Case(
        "set the clock of the machine that signs, which is the one where you type: `timedatectl` says whether it is "
        "synchronised; then the same command again",
        "fix_credentials",
    ),
    "bucket_region": Case(
        "write `region: {region}` for `{bucket}` under `buckets:` of the profile", "fix_profile"
    ),
    "bucket_region_unknown": Case(
        "write the region of `{bucket}` under `buckets:` of the profile: the store's page of the bucket has it",
        "fix_profile",
    ),
    "bucket_denied": Case(
        "give the keys of `{bucket}` the right to read it (`s3:GetObject`, and `s3:ListBucket` for a prefix), or name others "
        "under `buckets:` of the profile",
        "fix_credentials",
    ),
    "bucket_not_public": Case(
        "the bucket is not public: name the secrets with its keys under `buckets:` of the profile, as `access_key` and "
        "`secret_key`",
        "fix_credentials",
    ),
    "bucket_archived": Case("restore the object from its archive class first: `aws s3api restore-object`"),
    "bucket_empty": Case(
        "nothing there is wanted: check the prefix, which ends in `/`, and `include` and `exclude`, which are compared with "
        "whole keys",
        "fix_profile",
    ),
    "bucket_keys_unset": Case(
        "set {names} in your environment, then the same command again", "fix_credentials"
    ),
    "bucket_unsigned": Case(
        "`provision up` signs it where the keys of its bucket are; a newer provision than the run's may be needed",
        "retry",
    ),
    "sign_again": Case(
        "`provision attach {run}` on a machine that has the keys of the bucket signs a new address, and the file goes on",
        "retry",
    ),
    # -- the disk
    "more_room": Case("rent an instance with at least {more} more, or free as much"),
    "more_room_or_optional": Case(
        "rent an instance with at least {more} more, or free as much; making {items} optional would do"
    ),
    "part_taken": Case("the same command again: it fetches the file anew", "retry"),
    "path_taken": Case(
        "something else stands at this path on the instance, or it is too long: choose another `path`"
    ),
    "path_unwritable": Case(
        "choose a `path` that can be written, or give the login of the instance the right to write there"
    ),
    # -- files from the machine that orders the run
    "link_leads_out": Case(
        "copy what the link leads to into the folder, leave the link out with `exclude`, or make it a relative one that "
        "stays inside",
        "fix_profile",
    ),
    "sent_by_another": Case("wait until it has ended, then the same command again", "retry"),
    "nobody_sends": Case(
        "run the same `provision up` again, on the machine that has the files; what has landed is kept",
        "retry",
    ),
    "changes_meanwhile": Case("let what writes it come to its end, then the same command again", "retry"),
    "no_file_there": Case("check the path on the instance, and whether the login may read it", "fix_profile"),
    "unreadable_here": Case(
        "correct `from` of the upload, or make it readable on the machine that sends it, then the same command again",
        "fix_profile",
    ),
    "full_here": Case(
        "free space on the machine that takes the files, then `provision attach` with the same `--outputs`: what is there is kept",
        "retry",
    ),
    "capped_here": Case("give a larger `--max-outputs`, or another folder", "retry"),
    "unwritable_here": Case(
        "make the folder writable on the machine that takes the files, or choose another `--outputs`", "retry"
    ),
    # -- programs
    "no_program": Case(
        "install `{program}` on the instance, or list its package under `apt:`", "fix_instance"
    ),
    "no_script": Case(
        "correct the command in the profile, or let an earlier step bring `{program}`: a repo, a download or `files:`"
    ),
    "not_executable": Case("make `{program}` executable, or run it by its interpreter: `bash {program}`"),
    "no_folder": Case("correct `directory` in the profile, or let an earlier step make it"),
    "no_git": Case("install git on the instance, or list it under `apt:`", "fix_instance"),
    "repeat": Case("repeat it on the instance: `{command}`"),
    "no_apt": Case("this image has no apt: leave `apt:` out of the profile, or run with `--skip apt`"),
    "no_root": Case(
        "connect as root (`--user root`), allow `sudo` without a password, or run with `--skip apt`",
        "fix_instance",
    ),
    "no_such_package": Case(
        "correct the name under `apt:`; `apt-cache search NAME` on the instance lists what there is"
    ),
    "apt_broken": Case("on the instance: `apt-get install -f`, then the same command again", "fix_instance"),
    # -- repositories
    "private_repository": Case(
        "the repository is private or does not exist: check the URL, or declare a token for its host under `secrets`, such as "
        "`GITHUB_TOKEN` with `hosts: [github.com]`"
    ),
    "submodule_protocol": Case(
        "submodules come by https or ssh only: leave `submodules: true` out, or list that repository under `repos:` with an "
        "address of your own"
    ),
    "url_or_ref": Case("check `url` and `ref` of the repo in the profile"),
    "ref": Case("correct `ref` of the repo in the profile"),
    "files_in_the_way": Case(
        "move the files that it names away, or choose another `path` for the repo, then the same command again"
    ),
    "local_changes": Case(
        "on the instance: `{git} stash` keeps the changes, `{git} reset --hard` discards them; then the same command again",
        "fix_instance",
    ),
    "local_commits": Case(
        "on the instance: `{git} branch mine && {git} checkout --detach` keeps the commits as branch `mine` and lets the "
        "pinned one in; then the same command again",
        "fix_instance",
    ),
    "repo_path_taken": Case("move `{path}` away, or choose another `path` for the repo", "fix_instance"),
    # -- the environment
    "no_base_python": Case("install it: `apt-get install -y python3 python3-venv`", "fix_instance"),
    "no_venv": Case(
        "on Debian and Ubuntu: `apt-get install -y {package}`, or list `{package}` under `apt:`",
        "fix_instance",
    ),
    "venv_path_taken": Case("move `{path}` away, or give `python.venv` another path", "fix_instance"),
    "venv_not_ours": Case("give `python.venv` a path of its own in the profile, and a new one is made there"),
    "requirements_path": Case("correct its path in the profile"),
    "no_environment": Case("add `python:` to the profile"),
    "no_such_version": Case("name another version in the profile, or add the index that has it"),
    "installer_network": Case(
        "raise `python.timeout` (now {timeout}), or check the instance's network; repeat it there: `{command}`"
    ),
    "installer_version": Case(
        "correct the version in the profile, or add its index with PIP_EXTRA_INDEX_URL; repeat it on the instance: "
        "`{command}`"
    ),
    "installer_conflict": Case(
        "relax the version that conflicts, or take it out of `protect`; repeat it on the instance: `{command}`"
    ),
    "installer_wheel": Case(
        "the index has a damaged file of the package, or another one than it says: name another version in the profile, or "
        "take it from another index (`python.indexes`); repeat it on the instance: `{command}`"
    ),
    "installer_uv": Case("set `installer: auto`, or repeat it on the instance: `{command}`"),
    # -- services and checks
    "service_command": Case("correct `run:` of the service in the profile"),
    "service_log": Case("read {path} on the instance"),
    "no_ready": Case("give the service `ready:`, with the address of its `/system_stats`"),
    "service_down": Case("see why it does not run: its own errors stand above this one"),
    "not_offered": Case(
        "its log says which nodes it could not load; models must lie in a folder that it looks into"
    ),
    "node_log": Case("read {path} on the instance; correct the node's `install:`, or choose another `ref`"),
    "service_folder": Case("correct `directory` of the service, or let a repo make the folder"),
    "ending_already": Case(
        "what is still needed must be fetched now: `provision copy`, or `provision attach`"
    ),
    "not_measured": Case("`provision up` with the same profile measures it again", "retry"),
    "no_lifetime": Case(
        "give the profile a `lifetime`, or leave the instance as it is: nothing here ends it"
    ),
    "job_log": Case(
        "read its log: `provision logs {run} --job {job}`; correct what it says, then `provision up` again"
    ),
    "job_timeout": Case(
        "what it has written is kept; give the job a longer `timeout`, or none, then `provision up` again"
    ),
    "job_not_begun": Case(
        "mend what is named there, then `provision up` again: what is there is kept", "retry"
    ),
    "adopted_ended": Case(
        "the same command again: it starts the service itself if nothing else does", "retry"
    ),
    "port_of_process": Case(
        "end it on the instance (`kill {pid}`), or give the service and its ready URL another port"
    ),
    "import": Case(
        "add the package that has `{module}` to `python.layers`; try it on the instance: "
        "`{python} -c 'import {module}'`"
    ),
    "gone_since": Case("`provision up` with the same profile makes again what is missing", "retry"),
    "not_as_made": Case("`provision audit --host {host} --repair` brings it again as it was", "retry"),
    "node_submodule": Case(
        "if that is a submodule, add `submodules: true` to the repo; if the node's `install.py` brings it, run that "
        "under `commands:`; else choose another `ref`"
    ),
    "node_version": Case(
        "the node was made for another version: choose another `ref` for it, or for ComfyUI"
    ),
    "node_package": Case("add the package that has `{module}` to `python.layers`, or leave the node out"),
    "node_requirement": Case(
        "it was not installed, or its install failed; on the instance: `{python} -m pip install '{line}'`"
    ),
    "node_install": Case("add `install: {name}` to the repo in the profile"),
}
"""Every case, by name."""

_PARTICULAR = re.compile(r"\{(\w+)\}")
_PATTERNS = {
    "run": r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    "token": r"[A-Za-z_][A-Za-z0-9_]{0,63}",
    "pid": r"[0-9]{1,10}",
    "page": r"https://(huggingface\.co|hf-mirror\.com|github\.com)/[\w./-]{1,300}",
}
"""Particulars of which a person would believe more than that they are the instance's words."""


def words(name: Optional[str], about: Optional[Mapping[str, str]]) -> Optional[str]:
    """The advice of the case *name* with its particulars; None when there is none, or they do not fit."""
    case = CASES.get(name or "")
    if case is None:
        return None
    given = about or {}
    if not all(_fits(name, given.get(name, "")) for name in _PARTICULAR.findall(case.hint)):
        return None
    return _PARTICULAR.sub(lambda match: given[match.group(1)], case.hint)


def _fits(particular: str, value: str) -> bool:
    pattern = _PATTERNS.get(particular)
    if pattern is not None:
        return re.fullmatch(pattern, value) is not None
    return value.isprintable() and 0 < len(value) <= MAX_PARTICULAR_CHARS
