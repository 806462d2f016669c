"""A profile from its file: read, laid over what it extends, variables filled in, checked.

Either there is a whole, valid `Profile`, or a `ProfileError` that names everything wrong with it at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pydantic
from provision_agent.contract.buckets import Buckets
from provision_agent.contract.plan_parts import SecretRule

from ..errors import ProfileError
from .buckets import buckets_of, stays_here
from .compose import LISTS, merge, removals
from .conflicts import conflicts
from .library import named_profiles
from .messages import problems_of
from .model import Document
from .model_parts import Markers
from .rules import broken_rules
from .secrets import default_rules
from .source import SourceError, read_text
from .tree import Mark, Node, Problem, problem_lines, read_tree
from .variables import Variables, suggestion

_NOTHING: Mapping[str, str] = {}
_OWN_KEYS = ("name", "description")
"""These say what one file is, and are not inherited."""


@dataclass(frozen=True)
class Profile:
    """What an instance must have: checked, with every variable filled in that is known on this side."""

    document: Document
    sources: tuple[str, ...]
    """The files that it was made from, its own last."""
    tree: Node = field(repr=False)
    has_default_secrets: bool = True
    """Do the built-in rules stand, where an item is on one of their hosts?"""

    @classmethod
    def named(cls, name: str, *, overrides: Mapping[str, str] = _NOTHING) -> Profile:
        """The built-in profile *name*; as `load_profile` otherwise."""
        known = named_profiles()
        if name not in known:
            raise ProfileError([str(Problem(Mark(name, 1, 1), _no_such_name(name)))], hint=_NOT_FOUND)
        return cls.from_file(known[name], overrides=overrides)

    @classmethod
    def from_file(cls, path: str | Path, *, overrides: Mapping[str, str] = _NOTHING) -> Profile:
        """The profile in the file *path*; as `load_profile` otherwise."""
        try:
            text = read_text(path)
        except SourceError as error:
            raise ProfileError(
                [str(Problem(Mark(str(path), error.line, error.column), str(error)))],
                hint="" if os.path.exists(path) else _NOT_FOUND,
            ) from None
        return _Loader(overrides).load(text, str(path))

    @classmethod
    def from_text(
        cls, text: str, *, name: str = "profile.yaml", overrides: Mapping[str, str] = _NOTHING
    ) -> Profile:
        """The profile in *text*.

        Args:
            text: The YAML.
            name: Stands for its file: in messages, and for a relative `extends`.
            overrides: Values for its variables (``--set``).

        Raises:
            ProfileError: every problem that it has.
        """
        return _Loader(overrides).load(text, name)

    @property
    def name(self) -> str:
        """Its own `name`, or its file's."""
        return self.document.name

    @property
    def markers(self) -> Markers:
        """Lines that end `provision collect`."""
        return self.document.markers

    @property
    def secret_rules(self) -> tuple[SecretRule, ...]:
        """The secrets that its instance may have, and who may see them; then the built-in ones for the hosts of its items."""
        kept = stays_here(self.document)
        own = tuple(
            SecretRule(name=name, hosts=rule.hosts, aliases=rule.aliases)
            for name, rule in self.document.secrets.items()
            if name not in kept
        )
        return own + (default_rules(self.document, own) if self.has_default_secrets else ())

    @property
    def buckets(self) -> Buckets:
        """Its buckets; a secret that nothing else names stays on this machine."""
        return buckets_of(self.document)

    def without_default_secrets(self) -> Profile:
        """The same, with no other secrets than those of its `secrets`."""
        return replace(self, has_default_secrets=False)

    def resolved(self) -> dict[str, object]:
        """The profile as plain YAML values with nothing left to look up: no `extends`, no user variables."""
        data = {key: node.data() for key, node in _mapping(self.tree).items()}
        first = {key: data[key] for key in ("version", "name", "description") if key in data}
        return first | {key: value for key, value in data.items() if key != "variables"}


def load_profile(name_or_path: str, *, overrides: Mapping[str, str] = _NOTHING) -> Profile:
    """Load a built-in profile, or one from a file.

    Args:
        name_or_path: A name; or a path, which has a ``/``, ends in ``.yaml`` or ``.yml``, or exists.
        overrides: Values for the profile's variables (``--set``); plain text, never expanded.

    Returns:
        The profile, valid as a whole.

    Raises:
        ProfileError: every problem as ``file:line:column: message``.
    """
    if _is_path(name_or_path) or (name_or_path not in named_profiles() and os.path.exists(name_or_path)):
        return Profile.from_file(name_or_path, overrides=overrides)
    return Profile.named(name_or_path, overrides=overrides)


_NOT_FOUND = "give the path of a profile, or the name of a built-in one: `provision profiles list` has them"


class _Loader:
    """Loads one profile; gathers the problems of all its files."""

    def __init__(self, overrides: Mapping[str, str]) -> None:
        self._overrides = overrides
        self._problems: list[Problem] = []
        self._layers: list[Node] = []
        self._files: list[str] = []
        self._seen: set[str] = set()
        self._is_torn = False
        """A file of it could not be read as a whole."""

    def load(self, text: str, file: str) -> Profile:
        self._add(text, file, ())
        if not self._layers:
            raise self._error(file)
        variables = self._variables()
        layers = [variables.expand(layer) for layer in self._layers]
        place = self._layers[-1].get("variables")
        variables.check_overrides(place.key_mark if place and place.key_mark else Mark(file, 1, 1))
        tree = _named_after(file, self._laid_over(layers))
        document, problems = _validated(_with_version(tree) if self._is_torn else tree)
        for layer in layers:
            problems += _mistakes(layer)
        problems += [*broken_rules(tree), *conflicts(tree, is_whole=not self._is_torn)]
        if self._is_torn:  # what a missing part would have held cannot be told from what is wrong
            problems = [problem for problem in problems if problem.mark not in variables.unfilled]
        self._problems += problems
        if document is None or self._problems:
            raise self._error(file)
        return Profile(document, tuple(self._files), tree)

    def _error(self, file: str) -> ProfileError:
        return ProfileError(problem_lines(self._problems, file))

    def _add(self, text: str, file: str, chain: tuple[str, ...]) -> None:
        """Put the bases of *file* and then itself on the layers; a file that several extend counts once."""
        tree = read_tree(text, file, self._problems)
        if tree is None:
            self._is_torn = True
            return
        for base in _bases(tree):
            self._add_base(base, file, (*chain, os.path.realpath(file)))
        self._layers.append(_without(tree, ("extends",)))
        self._files.append(file)

    def _add_base(self, node: Node, file: str, chain: tuple[str, ...]) -> None:
        try:
            path = _base_path(node.value, file)
            real = os.path.realpath(path)
            if real in chain:
                links = [os.path.basename(link) for link in (*chain[chain.index(real) :], real)]
                raise SourceError(f"profiles that extend each other: {' -> '.join(links)}")
            if real not in self._seen:
                text = _read_base(path)
                self._seen.add(real)
                self._add(text, path, chain)
        except SourceError as error:
            self._is_torn = True
            self._problems.append(Problem(node.mark, str(error)))

    def _laid_over(self, layers: list[Node]) -> Node:
        """All *layers* in one; the last one's name is the name of the whole."""
        *bases, own = layers
        problems: list[Problem] = []
        tree: Node | None = None
        for layer in [*(_without(base, _OWN_KEYS) for base in bases), own]:
            tree = merge(tree, layer, problems)
        assert tree is not None
        self._problems += [] if self._is_torn else problems
        return tree

    def _variables(self) -> Variables:
        """The user's variables of all layers; what is wrong with their declarations is said."""
        head: Node | None = None
        for layer in self._layers:
            head = merge(head, _only(layer, ("variables", "secrets")), [])
        assert head is not None
        variables = Variables(
            _mapping(head.get("variables")),
            self._overrides,
            frozenset(_mapping(head.get("secrets"))),
            self._problems,
            may_have_more=self._is_torn,
        )
        variables.check_declared()
        return variables


def _validated(tree: Node) -> tuple[Document | None, list[Problem]]:
    try:
        return Document.model_validate(tree.data()), []
    except pydantic.ValidationError as error:
        return None, problems_of(error.errors(include_url=False), tree)


def _mistakes(layer: Node) -> list[Problem]:
    """What is wrong with one file's part, also where another part replaces it."""
    lists = {key: layer.get(key) or _mapping(layer.get("python")).get(key) for key in LISTS}
    entries = [(key, item) for key, node in lists.items() if node is not None for item in node.items()]
    problems = [problem for key, item in entries for problem in removals(item, key)]
    alone = _with_version(merge(None, layer, []))
    return [*problems, *_validated(alone)[1], *broken_rules(alone, is_whole=False)]


def _with_version(tree: Node) -> Node:
    """*tree* as if another part said the version, unless it does so itself."""
    if not isinstance(tree.value, dict) or "version" in tree.value:
        return tree
    return replace(tree, value={**tree.value, "version": Node(1, tree.mark)})


def _bases(tree: Node) -> list[Node]:
    extends = tree.get("extends")
    if extends is None or extends.value is None:
        return []
    return extends.items() if isinstance(extends.value, list) else [extends]


def _base_path(base: object, file: str) -> str:
    if not isinstance(base, str):
        raise SourceError("`extends` takes a name, a path, or a list of them")
    if _is_path(base):
        return os.path.join(os.path.dirname(file), base)
    known = named_profiles()
    if base not in known:
        raise SourceError(_no_such_name(base))
    return str(known[base])


def _read_base(path: str) -> str:
    try:
        return read_text(path)
    except SourceError as error:
        raise SourceError(f"`{path}`: {error}") from None


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith((".yaml", ".yml"))


def _no_such_name(name: str) -> str:
    known = named_profiles()
    near = suggestion(name, frozenset(known)) or f"; there are {', '.join(known)}"
    return f"no built-in profile `{name}`{near} (a file is given with `/` or `.yaml`)"


def _named_after(file: str, tree: Node) -> Node:
    if not isinstance(tree.value, dict) or "name" in tree.value:
        return tree
    stem = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "", os.path.splitext(os.path.basename(file))[0])
    return replace(tree, value={**tree.value, "name": Node(stem or "profile", tree.mark)})


def _mapping(node: Node | None) -> dict[str, Node]:
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _without(tree: Node, keys: tuple[str, ...]) -> Node:
    if not isinstance(tree.value, dict):
        return tree
    return replace(tree, value={key: node for key, node in tree.value.items() if key not in keys})


def _only(tree: Node, keys: tuple[str, ...]) -> Node:
    return replace(tree, value={key: node for key, node in _mapping(tree).items() if key in keys})
