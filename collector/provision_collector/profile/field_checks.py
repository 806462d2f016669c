"""How the values of a profile's fields are read: what is taken, what it becomes, and what is said of anything else.

A check raises `ValueError` with the whole message; a wrong type raises `wrong_type`, which `messages` words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from provision_agent.contract.plan_packages import WHEEL_PLACEHOLDERS
from provision_agent.contract.plan_parts import Bound, Compared
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from . import paths, units, urls

Shape = dict[str, object]
"""A JSON Schema."""

T = TypeVar("T")

_OPTIONS = ("--no-deps", "--pre", "--upgrade", "--no-build-isolation")
_OPTIONS_WITH_URL = ("--index-url", "--extra-index-url")
LAYER_ENTRY_PATTERN = f"^([A-Za-z0-9]|({'|'.join(_OPTIONS)})$|({'|'.join(_OPTIONS_WITH_URL)})=https?://)"


@dataclass(frozen=True, eq=False)
class Form:
    """A note on a field's type: how its value is read, and the JSON Schema of what may be written."""

    read: Callable[[object], object]
    schema: Shape

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> Shape:
        return dict(self.schema)


_OUR_HEADERS = frozenset(
    ("host", "range", "connection", "content-length", "transfer-encoding", "accept-encoding", "user-agent")
)


def header_name(value: str) -> str:
    """The name of a header that a profile may set."""
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value):
        raise ValueError(f"`{value}` is not the name of a header, such as `X-Api-Key`")
    if value.lower() in _OUR_HEADERS:
        raise ValueError(f"`{value}` is set by provision itself: choose another header")
    return value


def wrong_type(expected: str) -> PydanticCustomError:
    """The error for a value that is no *expected*."""
    return PydanticCustomError("wrong_type", "must be {expected}", {"expected": expected})


def string(check: Callable[[str], str], **schema: object) -> Form:
    """A string that *check* returns, perhaps in another form; *schema* is what JSON Schema can say of it."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise wrong_type("a string")
        return check(value)

    return Form(read, {"type": "string", **schema})


def matching(pattern: str, expected: str) -> Form:
    """A string that matches *pattern* from its first character to its last: *expected*, in words."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"`{value}` is not {expected}")
        return value

    return string(check, pattern=f"^({pattern})$" if "|" in pattern else f"^{pattern}$")


def measure(
    read: Callable[[object], float | int], pattern: str, expected: str, *, word: str = "", suffix: str = ""
) -> Form:
    """A duration or a size.

    Args:
        read: Makes the number, in seconds or bytes, of what is written; it raises ValueError.
        pattern: What is written, as a regular expression, for the JSON Schema.
        expected: What was expected, in words, with an example.
        word: What stands for "no value"; empty: nothing does.
        suffix: What may follow, such as ``/s``.
    """

    def validate(value: object) -> float | int | None:
        if word and value == word:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise wrong_type(expected)
        try:
            return read(value.removesuffix(suffix) if isinstance(value, str) and suffix else value)
        except ValueError as error:
            raise ValueError(f"{error}{f', or `{word}`' if word else ''}") from None

    text = f"^({pattern}|{units.NUMBER_PATTERN}){f'({suffix})?' if suffix else ''}$"
    shapes: list[Shape] = [{"type": "number", "minimum": 0}, {"type": "string", "pattern": text}]
    return Form(validate, {"anyOf": [*shapes, *([{"const": word}] if word else [])]})


def log_pattern(value: str) -> str:
    """A regular expression, as the instance's Python reads it too."""
    try:
        re.compile(filled(value))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"`{value}` is not a regular expression: {error}") from None
    return value


def filled(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("too_short", "must not be empty")
    return value


def local_path(value: str) -> str:
    """A file or folder of this machine, as this machine writes it."""
    if any(ord(character) < 32 or ord(character) == 127 for character in filled(value)):
        raise ValueError("a path must not hold control characters")
    if "${" in value:
        raise ValueError("this path is one of this machine: `${…}` of the instance means nothing in it")
    return value


def home_folder(value: str) -> str:
    """A folder below the one that outputs go into."""
    local_path(value)
    if value.startswith(("/", "~")) or ".." in value.split("/") or "\\" in value:
        raise ValueError(f"`{value}` is not below the folder of `--outputs`: write it relative, without `..`")
    return value


def count(value: object) -> object:
    """Digits in a string are a number too, so that a variable can stand for one."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type("a whole number in plain decimal digits")
    return value


def version(value: object) -> object:
    if isinstance(value, bool) or value != 1 or not isinstance(value, int):
        raise wrong_type("1")  # `yes` and `1.0` equal 1 in Python
    return value


def count_or_auto(value: object) -> object:
    if value == "auto":
        return None
    try:
        return count(value)
    except PydanticCustomError:
        raise wrong_type("a whole number or auto") from None


def word(value: object) -> str:
    """A whole number is as good as the string: both read the same in every YAML."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise wrong_type("a string")
    if "\0" in str(value):
        raise ValueError("a string for a program cannot hold a NUL character")
    return str(value)


def once(words: tuple[T, ...]) -> tuple[T, ...]:
    return tuple({repr(word): word for word in words}.values())


def one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def package(value: str) -> str:
    if not re.match(r"[A-Za-z0-9]", value) or "\n" in value:
        raise ValueError(f"`{value}` is not a package: write a name and perhaps versions, such as `numpy<2`")
    return value


def layer_entry(value: str) -> str:
    if not value.startswith("-"):
        return package(value)
    option, equals, url = value.partition("=")
    if option in _OPTIONS_WITH_URL and equals:
        urls.web_url(url)
    elif value not in _OPTIONS:
        known = ", ".join((*_OPTIONS, *(f"{name}=URL" for name in _OPTIONS_WITH_URL)))
        raise ValueError(f"`{value}` is none of the options that a layer may begin with: {known}")
    return value


def index_pattern(value: str) -> str:
    """A web address, in which ``{accelerator}`` may stand."""
    urls.web_url(value.replace("{accelerator}", "cu128"))
    return value


def public_url(value: str) -> str:
    """A web address, in which ``{host}`` may stand for that of the instance."""
    urls.web_url(value.replace("{host}", "h"))
    return value


def cache_pattern(value: str) -> str:
    """A web address in which ``{host}`` and ``{path}`` stand for those of a source."""
    if not {"{host}", "{path}"} <= set(re.findall(r"\{[^{}]*\}", value)):
        raise ValueError(
            "a cache is named with both `{host}` and `{path}`, such as `http://10.0.0.2:8080/{host}/{path}`"
        )
    urls.web_url(value.replace("{host}", "h").replace("{path}", "p"))
    return value


def wheel_place(value: str) -> str:
    """A web address or a folder."""
    return urls.web_url(value) if "://" in value else paths.any_path(value)


def wheel_template(value: str) -> str:
    """The address of a wheel, in which `WHEEL_PLACEHOLDERS` may stand."""
    unknown = [name for name in re.findall(r"\{([^{}]*)\}", value) if name not in WHEEL_PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in WHEEL_PLACEHOLDERS)
        raise ValueError(f"`{{{unknown[0]}}}` is none of the placeholders of a wheel: {known}")
    address, _, fragment = value.partition("#")
    if not address.startswith(("https://", "http://", "file:///")) or not address.endswith(".whl"):
        raise ValueError(f"`{value}` is no address of a wheel: it begins with `https://` and ends in `.whl`")
    if fragment and not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", fragment):
        raise ValueError(f"`#{fragment}` is not `#sha256=` and 64 hexadecimal digits")
    return value


def ref(value: str) -> str:
    if not re.fullmatch(r"[^\s~^:?*\[\\-][^\s~^:?*\[\\]*", value) or ".." in value:
        raise ValueError(f"`{value}` is not a branch, a tag or a commit")
    return value


def bound(value: object) -> Bound:
    """One condition on a size, or a list of them, which all must hold."""
    return _bound(value, plain="")


def least(value: object) -> Bound:
    """As `bound`, but a size alone means at least that."""
    return _bound(value, plain=">=")


def _bound(value: object, plain: str) -> Bound:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise wrong_type("a condition such as `>=24GiB`, or a list of them")
    first, *others = (Bound(*units.bound(text, plain)) for text in texts)
    return replace(first, also=tuple(others))


def compared(pattern: str, example: str, plain: str = "==") -> Callable[[object], tuple[Compared, ...]]:
    """One condition on a number or a version, which matches *pattern*, or a list of them; without an operator: *plain*."""

    def read(value: object) -> tuple[Compared, ...]:
        given = value if isinstance(value, list) else [value]
        texts = [str(each) if type(each) is int else each for each in given]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise wrong_type(f"a string with a condition such as `{example}`, or a list of them")
        found = []
        for text in texts:
            operator, number = units.condition(text, example)
            if not re.fullmatch(pattern, number, re.ASCII):
                raise ValueError(
                    f"`{text}` is no condition: write an operator and a value, such as `{example}`"
                )
            found.append(Compared(operator or plain, number))
        return tuple(found)

    return read


def gpu_names(value: object) -> tuple[str, ...]:
    """One pattern for a card's name, or a list of them, which all must hold."""
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise wrong_type("a part of a card's name, such as `RTX 4090`, or a list of them")
    found = []
    for text in texts:
        operator, pattern = units.condition(text, "RTX 4090")
        if operator not in ("", "==", "!="):
            raise ValueError(
                f"`{text}`: names have no order: write a part of a name, or `!=` and a part of it"
            )
        if not all(part.strip() for part in pattern.split("|")):
            raise ValueError(f"`{text}`: a name is missing beside `|`")
        found.append(f"!={pattern}" if operator == "!=" else pattern)
    return tuple(found)


def unpack(value: object) -> str:
    ways = {"False": "no", "True": "auto", "zip": "zip", "tar": "tar"}
    if not isinstance(value, (bool, str)) or str(value) not in ways:
        raise ValueError("`unpack` is false, true (by content), zip or tar")
    return ways[str(value)]
