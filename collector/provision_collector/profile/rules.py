"""What the keys of one item mean together: a check is one thing, a critical service starts early.

Which keys go together is said in `model`; here is how it is told. Works on the tree, not on the models, so that it
finds its problems also in an item that has others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from provision_agent.contract.buckets import KEYED, object_of
from provision_agent.contract.plan_parts import repository_of
from provision_agent.contract.source_kinds import means_many_files

from .model import Check, Document, Download, Service
from .model_base import Part
from .model_parts import Bucket, Lifetime
from .model_python import Layer
from .paths import comparable
from .tree import Mark, Node, Oddity, Problem, quoted
from .walk import Model, parts


def broken_rules(document: Node, *, is_whole: bool = True) -> Iterator[Problem]:
    """Every problem that an item has although each of its values is fine by itself.

    Args:
        is_whole: False for one part of several: what is missing in it may be in another.
    """
    for kind, part in parts(document):
        message = issubclass(kind, Part) and kind.when_empty
        if message and part.value == {}:
            yield Problem(part.mark, message)
        if kind in _RULES and (is_whole or kind is not Document):
            yield from _RULES[kind](part)


def _document(document: Node) -> Iterator[Problem]:
    require = document.get("require")
    if require is None or require.get("line") is None or require.get("line_from") is not None:
        return
    if not document.section("downloads"):
        message = "`line` is measured against a download, and there is none: name a large file in `line_from`"
        yield Problem(_key_mark(require, "line"), message)


def _check(check: Node) -> Iterator[Problem]:
    if not isinstance(check.value, dict):
        return
    kinds = [kind for kind in Check.one_of if kind in check.value]
    if len(kinds) != 1:
        *firsts, last = (f"`{kind}`" for kind in Check.one_of)
        said = " and ".join(f"`{kind}`" for kind in kinds) or "none"
        message = f"a check has one of {', '.join(firsts)} and {last}; this one has {said}"
        yield Problem(_key_mark(check, kinds[-1]) if kinds else check.mark, message)
        return
    for key, fitting in Check.only_with.items():
        if key in check.value and kinds[0] not in fitting:
            yield Problem(_key_mark(check, key), f"`{key}` means nothing with `{kinds[0]}`: remove it")
    if kinds[0] == "service" and not any(check.section(key) for key in ("nodes", "models")):
        message = "say what the service must offer: give `nodes`, `models` or both"
        yield Problem(_key_mark(check, "service"), message)


def _service(service: Node) -> Iterator[Problem]:
    if service.text("level") == "critical" and service.text("start") == "complete":
        message = "a critical service decides `usable`, so it cannot wait for `complete`: use `start: usable`"
        yield Problem(service.mark_of("start"), message)
    ready = service.get("ready")
    expected = ready.get("json") if ready else None
    if expected is not None:
        yield from _odd_values(expected)


def _odd_values(node: Node) -> Iterator[Problem]:
    """`ready.json` may hold any JSON, but nothing that readers of YAML disagree about."""
    if isinstance(node.value, Oddity):
        message = f"`{node.raw}` is {node.value.meaning} to YAML: quote it, as {quoted(node.raw)}"
        yield Problem(node.mark, message)
    for below in [*node.items(), *node.entries()]:
        yield from _odd_values(below)


def _download(download: Node) -> Iterator[Problem]:
    path, substitute = download.text("path"), download.get("substitute")
    other = substitute.text("path") if substitute else None
    if path is not None and other is not None and comparable(path) == comparable(other):
        message = "a substitute under the wanted file's own path would pass for it: give it another path"
        yield Problem(substitute.mark_of("path") if substitute else download.mark, message)
    yield from _repository(download)
    for key in ("headers", "basic"):
        if download.get(key) is not None and (download.text("url") or "").startswith(("http://", "file:")):
            yield Problem(
                _key_mark(download, key),
                f"`{key}` goes to https hosts only, and `url` is none: write `https://`",
            )


def _repository(download: Node) -> Iterator[Problem]:
    """A whole repository is many files: what is said of one means nothing, and they need a folder."""
    url, path = download.text("url"), download.text("path")
    if url is None:
        return
    is_repository = means_many_files(url)
    nothing = Download.of_one_file if is_repository else Download.of_a_repository
    for key in nothing:
        if download.get(key) is not None:
            kind = _many(url) if is_repository else "a single file"
            yield Problem(_key_mark(download, key), f"`{key}` means nothing for {kind}: remove it")
    repository = repository_of(url)
    is_part = repository is None or repository.folder
    if is_repository and is_part and download.text("layout") == "hub":
        message = "`layout: hub` keeps whole repositories of the model hub: write `hf://OWNER/REPO`, choose with `include`"
        yield Problem(_key_mark(download, "layout"), message)
    if is_repository and path is not None and not path.endswith("/"):
        message = f"{_many(url)} needs a folder: write `{path}/`, or name one file of it in `url`"
        yield Problem(download.mark_of("path"), message)


def _many(url: str) -> str:
    return "a prefix of a bucket" if object_of(url) is not None else "a whole repository"


def _layer(layer: Node) -> Iterator[Problem]:
    if isinstance(layer.value, dict) and len(set(Layer.one_of).intersection(layer.value)) != 1:
        yield Problem(layer.mark, "a layer is a list of packages, or one of `torch` and `requirements`")
    listed = layer.section("packages") if isinstance(layer.value, dict) else layer.items()
    entries = [entry for entry in listed if isinstance(entry.value, str)]
    is_option = [str(entry.value).startswith("-") for entry in entries]
    if is_option and all(is_option) and len(entries) == len(listed):
        yield Problem(layer.mark, "a layer of options alone installs nothing: name a package after them")
    elif is_option != sorted(is_option, reverse=True):
        late = entries[is_option.index(True, is_option.index(False))]
        yield Problem(
            late.mark, f"`{late.value}` holds for the whole layer: write it before the first package"
        )


def _key_mark(item: Node, key: str) -> Mark:
    node = item.get(key)
    return node.key_mark if node is not None and node.key_mark is not None else item.mark


def _bucket(bucket: Node) -> Iterator[Problem]:
    keys = [key for key in KEYED if bucket.get(key) is not None]
    for key, other in (
        ("access_key", "secret_key"),
        ("secret_key", "access_key"),
        ("session_token", "secret_key"),
    ):
        if key in keys and other not in keys:
            yield Problem(
                _key_mark(bucket, key), f"`{key}` opens nothing without `{other}`: name that secret too"
            )


def _lifetime(lifetime: Node) -> Iterator[Problem]:
    if lifetime.get("then") is not None and not any(lifetime.get(key) for key in ("idle", "max")):
        message = "`then` is never run: say when, with `idle`, `max` or both"
        yield Problem(_key_mark(lifetime, "then"), message)


_RULES: dict[Model, Callable[[Node], Iterator[Problem]]] = {
    Document: _document,
    Bucket: _bucket,
    Check: _check,
    Service: _service,
    Download: _download,
    Layer: _layer,
    Lifetime: _lifetime,
}
