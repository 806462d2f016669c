"""What must hold between the items of a profile: one owner per path, one meaning per name, declared secrets.

Works on the tree, not on the models, so that it finds its problems also in a profile that has others.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from provision_agent.contract.source_kinds import DEFAULT_SECRETS

from .compose import identity
from .model import SECTIONS
from .notes import MAY_BE_DEFAULT, NAMES_SECRET
from .paths import comparable
from .tree import Node, Problem
from .variables import suggestion
from .walk import marked

WRITERS = {section: item for section, item in SECTIONS.items() if item.identity == "path"}
"""Sections whose items own a path."""


def conflicts(document: Node, *, is_whole: bool = True) -> Iterator[Problem]:
    """Every problem that no item has by itself.

    Args:
        document: All layers in one.
        is_whole: No file of it is missing, which may declare secrets.
    """
    yield from _paths_with_two_owners(document)
    for section in SECTIONS:
        yield from _names_given_twice(document, section)
    python = document.get("python")
    if python is not None:
        yield from _names_given_twice(python, "layers")
    yield from _outputs_in_one_folder(document)
    if is_whole:
        yield from _undeclared_secrets(document)
        yield from _unknown_services(document)


def _paths_with_two_owners(document: Node) -> Iterator[Problem]:
    owners: dict[str, list[Node]] = {}
    for section in WRITERS:
        for item in document.section(section):
            path = identity(section, item)
            if path is None:
                continue
            others = owners.setdefault(path, [])
            taken = next(
                (each for each in others if each.data() != item.data() and not _chosen_between(each, item)),
                None,
            )
            if taken is not None:
                yield Problem(item.mark_of("path"), _two_owners(taken, item))
            others.append(item)
    yield from _files_that_are_folders(document)


def _chosen_between(first: Node, item: Node) -> bool:
    """Does the instance choose between the two? Both have conditions, and not the same ones."""
    given = [when.data() for each in (first, item) if (when := each.get("when")) is not None]
    return len(given) == 2 and given[0] != given[1]


def _two_owners(first: Node, item: Node) -> str:
    where = f"line {first.mark.line}" + (
        f" of {first.mark.file}" if first.mark.file != item.mark.file else ""
    )
    same_file = first.text("sha256") is not None and first.text("sha256") == item.text("sha256")
    advice = (
        "; give its other URL there as a `mirrors` entry"
        if same_file
        else "; where an instance is to choose, both need a `when`, and not the same"
        if first.get("when") is not None or item.get("when") is not None
        else ""
    )
    return f"`{item.text('path')}` is already taken by the item on {where}, which is not the same{advice}"


def _files_that_are_folders(document: Node) -> Iterator[Problem]:
    """A file cannot be the folder of another item."""
    owners = [(kind, item) for section, kind in WRITERS.items() for item in document.section(section)]
    files = {
        comparable(path)
        for kind, item in owners
        if not kind.is_folder and (path := item.text("path")) is not None
    }
    for _, item in owners:
        folder = posixpath.dirname(comparable(item.text("path") or "").rstrip("/"))
        while folder and folder != "/":
            if folder in files:
                yield Problem(
                    item.mark_of("path"), f"`{folder}` is a file of this profile and cannot be a folder too"
                )
                break
            folder = posixpath.dirname(folder)


def _names_given_twice(owner: Node, section: str) -> Iterator[Problem]:
    named: dict[str, list[Node]] = {}
    for item in owner.section(section):
        name = item.text("name")
        if name is None:
            continue
        others = named.setdefault(name, [])
        first = next((each for each in others if not _chosen_between(each, item)), None)
        if first is not None:
            message = f"two {section} are called `{name}`; the first is on line {first.mark.line}"
            yield Problem(item.mark_of("name"), message)
        else:
            others.append(item)


def _outputs_in_one_folder(document: Node) -> Iterator[Problem]:
    lines: dict[str, int] = {}
    for item in document.section("outputs"):
        folder = posixpath.normpath(item.text("to") or "outputs")
        if folder in lines:
            message = f"the outputs of line {lines[folder]} go to `{folder}` already: give these another `to`"
            yield Problem(item.mark, message)
        lines.setdefault(folder, item.mark.line)


def _unknown_services(document: Node) -> Iterator[Problem]:
    names = frozenset(filter(None, (service.text("name") for service in document.section("services"))))
    for check in document.section("checks"):
        name = check.text("service")
        if name is not None and name not in names:
            message = f"no service of this profile is called `{name}`{suggestion(name, names)}"
            yield Problem(check.mark_of("service"), message)


def _undeclared_secrets(document: Node) -> Iterator[Problem]:
    declared = document.get("secrets")
    secrets = declared.value if declared is not None and isinstance(declared.value, dict) else {}
    aliases = {alias: name for name, rule in secrets.items() for alias in _alias_names(rule)}
    built_in = {rule.name for rule in DEFAULT_SECRETS}
    may_be_built_in = {id(node) for node in marked(document, MAY_BE_DEFAULT)}
    for node in marked(document, NAMES_SECRET):
        name = node.value
        if not isinstance(name, str) or name in secrets:
            continue
        if name in built_in and id(node) in may_be_built_in:
            continue
        if name in aliases:
            yield Problem(node.mark, f"`{name}` is an alias: use its name, `{aliases[name]}`")
        else:
            near = suggestion(name, frozenset(secrets)) or f"; declare it under `secrets`, as `{name}: {{}}`"
            yield Problem(node.mark, f"unknown secret `{name}`{near}")


def _alias_names(rule: Node) -> list[str]:
    aliases = rule.get("aliases")
    return [alias.value for alias in aliases.items() if isinstance(alias.value, str)] if aliases else []
