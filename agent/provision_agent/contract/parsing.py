"""Read what comes from outside into dataclasses, within bounds; everything else is one error.

`read_json` and `parse` are the door: after them every value has its declared type, numbers are finite and in
range, and texts, lists, objects and depth are bounded. A dataclass is the schema: its annotations are the types,
`bounds` in a field's metadata are the limits, unknown keys are ignored. Pure; Python 3.8 and standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Type, TypeVar, Union

MAX_TEXT_CHARS = 64 * 1024
MAX_INTEGER = 2**53 - 1
"""The largest whole number that every reader of JSON holds exactly."""
MAX_NUMBER = 1e18
MAX_NUMBER_CHARS = 24
MAX_ENTRIES = 100_000
"""Of one list or object."""
MAX_DEPTH = 24
"""Of lists and objects inside each other, where a field takes any JSON."""
MAX_VALUES = 6_000_000
"""Of one JSON text: each takes many times as much memory as its characters."""

T = TypeVar("T")
Check = Callable[[Any, str], Any]
"""Takes a value and the name of its place; returns the value as its type, or raises `ParseError`."""


class ParseError(ValueError):
    """Something from outside does not fit. The message names the place and what was wanted there."""


class NotJsonError(ParseError):
    """It is no JSON at all, or not even UTF-8: a line that was cut looks so."""


class Bounds(NamedTuple):
    """The limits of one field; each is checked where it fits the field's type."""

    low: Optional[float] = None
    high: Optional[float] = None
    max_chars: int = MAX_TEXT_CHARS
    max_entries: int = MAX_ENTRIES
    pattern: Optional[str] = None
    one_of: Tuple[str, ...] = ()
    check: Optional[Callable[[str], str]] = None
    """Says what belongs there, in words; empty when the value is that."""


NO_OTHER_BOUNDS = Bounds()
"""Those that hold everywhere."""


def bounded(default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """A dataclass field with limits, such as ``attempts: int = bounded(5, low=1, high=1000)``.

    Args:
        default: The field's default; without one (and without *factory*) the field must be there.
        factory: Makes the default, as `dataclasses.field` means it.
        limits: Those of `Bounds`; `alias`, the field's key in JSON where that is no name
            of Python; and `always`: its writer always writes it, although a reader does without.
    """
    metadata: Dict[str, Any] = {name: limits.pop(name) for name in ("alias", "always") if name in limits}
    metadata["bounds"] = Bounds(**limits)
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read_json(data: Union[bytes, str], *, max_bytes: int, what: str = "the text") -> Any:
    """The JSON value in *data*.

    Raises:
        ParseError: longer than *max_bytes*, not UTF-8, not JSON, NaN or infinity, a number of too many digits,
            or nested deeper than the interpreter reads.
    """
    if len(data) > max_bytes:
        raise ParseError(f"{what} is longer than {max_bytes // 1024} KiB")
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        if sum(map(text.count, ",[{")) > MAX_VALUES:
            raise ParseError(f"more than {MAX_VALUES} values")
        return _DECODER.decode(text)
    except ParseError as error:
        raise ParseError(f"{what} holds {error}") from None
    except UnicodeDecodeError:
        raise NotJsonError(f"{what} is not UTF-8") from None
    except ValueError as error:
        raise NotJsonError(f"{what} is not JSON: {error}") from None
    except RecursionError:
        raise ParseError(f"{what} is nested too deeply") from None


def read_object(data: Union[bytes, str], *, max_bytes: int, what: str = "the text") -> Dict[str, Any]:
    """The JSON object in *data*.

    Args:
        max_bytes: A longer text is refused unread.
        what: The name of the text, for messages.

    Raises:
        ParseError: as `read_json`, and for any other JSON value.
    """
    value = read_json(data, max_bytes=max_bytes, what=what)
    if not isinstance(value, dict):
        raise ParseError(f"{what} is {kind_of(value)}, not an object")
    return value


def parse(kind: Type[T], data: Any, where: str = "") -> T:
    """*data*, a JSON object, as the dataclass *kind*.

    Args:
        kind: A dataclass; nested dataclasses, Optional, Tuple, List, Dict, Literal and Any are understood.
        data: What `read_json` gave.
        where: The name of the place, for messages.

    Raises:
        ParseError: a field is missing, of another type, or out of its bounds.
    """
    if not isinstance(data, Mapping):
        raise ParseError(f"`{_shown(where or kind.__name__)}` must be an object, not {kind_of(data)}")
    fields = _fields_of(kind)
    values: Dict[str, Any] = {}
    for name, key, check, is_required in fields:
        if key in data:
            values[name] = check(data[key], f"{where}.{key}" if where else key)
        elif is_required:
            raise ParseError(f"`{_shown(f'{where}.{key}' if where else key)}` is missing")
    return kind(**values)


def _shown(where: str) -> str:
    """The place *where*, such as ``plan.downloads[0].path``, in words."""
    outer, _, inner = where.partition(".")
    return f"{inner}` of `{outer}" if inner else outer


def to_json(value: Any) -> Any:
    """Dataclasses, tuples and lists in *value* as JSON values. A field's `alias` in its metadata is its key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.metadata.get("alias", field.name): to_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def kind_of(value: Any) -> str:
    """What *value* is, in words that quote nothing of it: it may be anything."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, (int, float)):
        return "another number"
    return "an object" if isinstance(value, Mapping) else "a list"


def check_json(
    value: Any, where: str, *, max_depth: int = MAX_DEPTH, bounds: Bounds = NO_OTHER_BOUNDS
) -> Any:
    """*value*, any JSON, when its depth, its counts, its texts and its numbers are within bounds.

    Args:
        value: What `read_json` gave.
        where: The name of the place, for messages.
        max_depth: Of lists and objects inside each other.
        bounds: Of its texts and of all its entries together.

    Raises:
        ParseError: something in it is not.
    """
    level: List[Any] = [value]
    entries = 0
    for _ in range(max_depth + 1):
        inner: List[Any] = []
        for item in level:
            if isinstance(item, str):
                check_text(item, where, bounds)
            elif isinstance(item, dict):
                entries += len(item)
                for key in item:
                    check_text(key, where, bounds)
                inner.extend(item.values())
            elif isinstance(item, float) and not math.isfinite(item):
                raise ParseError(f"`{_shown(where)}` holds a number that is not finite")
            elif isinstance(item, int):
                if not -MAX_INTEGER <= item <= MAX_INTEGER:
                    raise ParseError(f"`{_shown(where)}` holds a number out of range")
            elif isinstance(item, (list, tuple)):
                entries += len(item)
                inner.extend(item)
        if entries > bounds.max_entries:
            raise ParseError(f"`{_shown(where)}` holds more than {bounds.max_entries} entries")
        if not inner:
            return value
        level = inner
    raise ParseError(f"`{_shown(where)}` is nested deeper than {max_depth}")


class _Field(NamedTuple):
    name: str
    key: str
    check: Check
    is_required: bool


_FIELDS: Dict[Any, Tuple[_Field, ...]] = {}
_UNIONS = (Union, getattr(types, "UnionType", Union))
"""``Optional[int]``, and ``int | None`` where the interpreter has it."""


def _fields_of(kind: Any) -> Tuple[_Field, ...]:
    if kind not in _FIELDS:
        _FIELDS[kind] = _read_fields(kind)
    return _FIELDS[kind]


def _read_fields(kind: Any) -> Tuple[_Field, ...]:
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        bounds = field.metadata.get("bounds", NO_OTHER_BOUNDS)
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        key = field.metadata.get("alias", field.name)
        found.append(_Field(field.name, key, _check_of(hints[field.name], bounds), is_required))
    return tuple(found)


def _check_of(hint: Any, bounds: Bounds) -> Check:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return lambda value, where: check_json(value, where, bounds=bounds)
    if origin in _UNIONS:
        return _union(
            tuple(_check_of(each, bounds) for each in arguments if each is not type(None)), arguments
        )
    if origin is typing.Literal:
        return _one_of(arguments)
    if origin in (tuple, list):
        return _sequence(origin, _check_of(arguments[0], bounds), bounds)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(_check_of(arguments[1], bounds), bounds)
    if dataclasses.is_dataclass(hint):
        return lambda value, where: parse(typing.cast("Type[Any]", hint), value, where)
    return _SCALARS[hint](bounds)


def _union(checks: Tuple[Check, ...], arguments: Tuple[Any, ...]) -> Check:
    takes_none = type(None) in arguments

    def check(value: Any, where: str) -> Any:
        if value is None and takes_none:
            return None
        for each in checks[:-1]:
            try:
                return each(value, where)
            except ParseError:
                continue
        return checks[-1](value, where)

    return check


def _one_of(words: Tuple[Any, ...]) -> Check:
    def check(value: Any, where: str) -> Any:
        if not any(value == word and type(value) is type(word) for word in words):
            raise ParseError(
                f"`{_shown(where)}` must be one of {', '.join(map(str, words))}, not {kind_of(value)}"
            )
        return value

    return check


def _sequence(kind: Any, of: Check, bounds: Bounds) -> Check:
    def check(value: Any, where: str) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ParseError(f"`{_shown(where)}` must be a list, not {kind_of(value)}")
        if len(value) > bounds.max_entries:
            raise ParseError(f"`{_shown(where)}` has more than {bounds.max_entries} entries")
        return kind(of(item, f"{where}[{index}]") for index, item in enumerate(value))

    return check


def _mapping(of: Check, bounds: Bounds) -> Check:
    def check(value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            raise ParseError(f"`{_shown(where)}` must be an object, not {kind_of(value)}")
        if len(value) > bounds.max_entries:
            raise ParseError(f"`{_shown(where)}` has more than {bounds.max_entries} entries")
        for key in value:
            check_text(key, where, Bounds(max_chars=bounds.max_chars))
        return {key: of(item, f"{where}.{key}") for key, item in value.items()}

    return check


def _text(bounds: Bounds) -> Check:
    pattern = re.compile(bounds.pattern) if bounds.pattern else None

    def check(value: Any, where: str) -> str:
        check_text(value, where, bounds)
        if pattern is not None and not pattern.fullmatch(value):
            raise ParseError(f"`{_shown(where)}` must match {bounds.pattern}, not {kind_of(value)}")
        if bounds.one_of and value not in bounds.one_of:
            raise ParseError(
                f"`{_shown(where)}` must be one of {', '.join(bounds.one_of)}, not {kind_of(value)}"
            )
        wanted = bounds.check(value) if bounds.check is not None else ""
        if wanted:
            raise ParseError(f"`{_shown(where)}` must be {wanted}, not {kind_of(value)}")
        return str(value)

    return check


def _number(kind: type, default_high: float) -> Callable[[Bounds], Check]:
    def of(bounds: Bounds) -> Check:
        low = -default_high if bounds.low is None else bounds.low
        high = default_high if bounds.high is None else bounds.high
        wanted = (int, float) if kind is float else int
        word = "a number" if kind is float else "a whole number"

        def check(value: Any, where: str) -> Any:
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise ParseError(f"`{_shown(where)}` must be {word}, not {kind_of(value)}")
            if not low <= value <= high:  # NaN is never within
                raise ParseError(f"`{_shown(where)}` must be from {low:g} to {high:g}, not {kind_of(value)}")
            return value

        return check

    return of


def _truth(bounds: Bounds) -> Check:
    def check(value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            raise ParseError(f"`{_shown(where)}` must be true or false, not {kind_of(value)}")
        return value

    return check


_SCALARS: Dict[Any, Callable[[Bounds], Check]] = {
    str: _text,
    int: _number(int, MAX_INTEGER),
    float: _number(float, MAX_NUMBER),
    bool: _truth,
}


def check_text(value: Any, where: str, bounds: Bounds) -> None:
    """Do nothing if *value* is text within *bounds* that can be written as UTF-8.

    Raises:
        ParseError: it is not; the message names the place *where*.
    """
    if not isinstance(value, str):
        raise ParseError(f"`{_shown(where)}` must be text, not {kind_of(value)}")
    if len(value) > bounds.max_chars:
        raise ParseError(f"`{_shown(where)}` is longer than {bounds.max_chars} characters")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ParseError(f"`{_shown(where)}` has half a character (a lone surrogate)") from None


def _no_constant(word: str) -> None:
    raise ParseError(f"{word}, which is no number")


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_NUMBER_CHARS:
        raise ParseError(f"a number of {len(digits)} digits")
    return int(digits)


def _bounded_float(digits: str) -> float:
    value = float(digits)
    if len(digits) > 4 * MAX_NUMBER_CHARS or not math.isfinite(value):
        raise ParseError("a number that is too long or not finite")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_bounded_int, parse_float=_bounded_float)
