"""The tables of docs/PROFILE.md, made from the models; the text around them is written by hand.

A block between ``<!-- fields: Download -->`` (``<!-- contents -->``, ``<!-- steps -->``, ``<!-- sources -->``, ``<!-- offers -->``) and ``<!-- end -->``
is made anew, everything else stays; a model that has no block gets one at the end.
``python -m provision_collector.profile.reference docs/PROFILE.md`` writes the file.
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from provision_agent.contract.source_kinds import SOURCE_KINDS
from provision_agent.contract.steps import STEPS
from pydantic import BaseModel

from .described import describe
from .model import Document
from .model_base import Part
from .notes import Annotation, Example, FieldNotes, Kind, fields_of
from .schema import EXTENDS

_BLOCK = re.compile(r"(<!-- (fields: \w+|contents|steps|sources|offers) -->\n).*?(<!-- end -->)", re.DOTALL)
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}


def filled(page: str) -> str:
    """*page* with every generated block made anew, and with one for each model.

    Raises:
        KeyError: a block of a model that does not exist.
    """
    models = {model.__name__: model for model in all_parts()}
    for name, model in models.items():
        mark = f"<!-- fields: {name} -->\n"
        if mark not in page:
            page += f"\n## {name}\n\n{model.__doc__}\n\n{mark}<!-- end -->\n"

    def block(match: re.Match[str]) -> str:
        what, _, name = match[2].partition(": ")
        lines = _table(models[name]) if name else _LISTS[what]()
        return match[1] + "".join(f"{line}\n" for line in lines) + match[3]

    return _BLOCK.sub(block, page)


def all_parts(model: type[BaseModel] = Document) -> Iterator[type[BaseModel]]:
    """*model* and every model inside it, each once; what their fields mean is in their descriptions."""
    describe(model)
    found = [model]
    for part in found:  # grows while it is read
        found += dict.fromkeys(
            field.part for field in fields_of(part) if field.part and field.part not in found
        )
    yield from found


def example_of(field: FieldNotes) -> str:
    """A value of *field* as YAML; empty for a mapping or list of mappings, which have a table of their own."""
    own, kind = field.note(Example), field.note(Kind)
    if own is not None or field.part is not None:
        return own.text if own is not None else ""
    choices = _choices(field.annotation)
    if choices:
        return choices[-1]
    text = kind.example if kind is not None else "true"
    return (
        f"[{text}]" if field.is_list and not text.startswith("[") and kind is not _own_kind(field) else text
    )


def default_of(model: type[BaseModel], field: FieldNotes) -> str | None:
    """What *field* is when a profile does not say it, as YAML; empty for nothing at all, None for a key that must be there."""
    info = model.model_fields[field.name]
    if info.is_required():
        return None
    extra = info.json_schema_extra
    value = extra.get("default") if isinstance(extra, dict) and "default" in extra else info.default
    kind = field.note(Kind)
    if value is None:
        return kind.none if kind is not None else ""
    if isinstance(value, Part):
        return ""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]" if value else ""
    if isinstance(value, Mapping):
        return ""
    if kind is not None and kind.unit and isinstance(value, (int, float)):
        return _measure(value, _SECONDS if kind.unit == "_s" else _BYTES)
    return _yaml(value) if isinstance(value, str) else str(value).lower()


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield f'<a id="{_anchor(model)}"></a>'
    yield ""
    yield "| key | value | default | meaning | example |"
    yield "| --- | --- | --- | --- | --- |"
    inherited = {name for base in model.__bases__ for name in getattr(base, "model_fields", ())}
    for field in sorted(fields_of(model), key=lambda field: field.name in inherited):
        default = default_of(model, field)
        yield _row(
            f"`{field.key}`",
            _words(field.annotation),
            "**must be given**" if default is None else _code(default),
            model.model_fields[field.name].description or "",
            _code(example_of(field)),
        )
        if model is Document and field.key == "version":
            yield _row(
                "`extends`",
                "name or path, or a list of them",
                "",
                str(EXTENDS["description"]),
                _code("comfyui-base"),
            )


def _steps() -> Iterator[str]:
    yield "| step | what it does |"
    yield "| --- | --- |"
    yield from (_row(f"`{name}`", step.text) for name, step in STEPS.items())


def _sources() -> Iterator[str]:
    yield "| source | `url` | links that it understands besides |"
    yield "| --- | --- | --- |"
    for name, kind in SOURCE_KINDS.items():
        written = "; ".join(form.example for form in kind.forms)
        yield _row(name.replace("_", " "), written, ", ".join(host.name for host in kind.hosts))


def _offers() -> Iterator[str]:
    yield "| source | token | ranges | hash known | listing | if its address expires |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, kind in SOURCE_KINDS.items():
        yield _row(
            name.replace("_", " "),
            *(said or "no" for said in kind.offers[:-1]),
            kind.offers.renewal or "it does not",
        )


def _contents() -> Iterator[str]:
    """Every key of a profile, with the place where it is told."""
    places = {"apt": "apt", "variables": "variables", "extends": "extends"}
    keys = [
        f"[`{field.key}`](#{_anchor(field.part) if field.part else places.get(field.key, _anchor(Document))})"
        for field in fields_of(Document)
    ]
    yield " · ".join([*keys, f"[`extends`](#{places['extends']})"])


_LISTS = {"contents": _contents, "steps": _steps, "sources": _sources, "offers": _offers}


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _anchor(model: type[BaseModel]) -> str:
    return f"of-{model.__name__.lower()}"


def _words(annotation: Annotation) -> str:
    """What kind of value *annotation* means."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        kinds = [note.text for note in arguments[1:] if isinstance(note, Kind)]
        return kinds[-1] if kinds else _words(arguments[0])
    if origin is tuple:
        return f"list of: {_words(arguments[0])}"
    if origin is dict:
        return f"mapping: {_words(arguments[0])} → {_words(arguments[1])}"
    choices = _choices(annotation)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices[:-1]) + f" or `{choices[-1]}`"
    if arguments:
        return _words(next(each for each in arguments if each is not type(None)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", annotation.__name__).lower()
        return f"[{words}](#{_anchor(annotation)})"
    return {bool: "`true` or `false`", str: "name", object: "any value"}[annotation]  # type: ignore[index]


def _choices(annotation: Annotation) -> list[str]:
    """The words of a Literal."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _choices(typing.get_args(annotation)[0])
    return (
        [str(word) for word in typing.get_args(annotation)]
        if typing.get_origin(annotation) is typing.Literal
        else []
    )


def _own_kind(field: FieldNotes) -> Kind | None:
    """The kind of the list itself, not of what is in it."""
    if typing.get_origin(field.annotation) is not typing.Annotated:
        return None
    return next((note for note in typing.get_args(field.annotation)[1:] if isinstance(note, Kind)), None)


def _yaml(text: str) -> str:
    """*text* as it stands in YAML: in quotes where it would mean something else."""
    return text if yaml.safe_load(text) == text else f'"{text}"'


def _measure(value: float, units: Mapping[str, int]) -> str:
    """*value* in the largest unit that divides it."""
    unit, width = next((unit, width) for unit, width in units.items() if value % width == 0 or width == 1)
    return f"{value / width:g}{unit}" if value else "0"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
