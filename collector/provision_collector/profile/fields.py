"""The kinds of value that a profile's fields have: each with its check, its JSON Schema and what people call it.

A check raises `ValueError` with the whole message; a wrong type raises `wrong_type`, which `messages` words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from provision_agent.contract.plan_parts import Bound as PlanBound
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from . import paths, units, urls
from .notes import NAMES_SECRET, Kind

NAME_OF_A_SECRET = r"[A-Z_][A-Z0-9_]*"  # noqa: S105  # a pattern
HOST_NAME = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"

Shape = dict[str, object]
"""A JSON Schema."""


def wrong_type(expected: str) -> PydanticCustomError:
    """The error for a value that is no *expected*."""
    return PydanticCustomError("wrong_type", "must be {expected}", {"expected": expected})


def _string(check: Callable[[str], str]) -> BeforeValidator:
    def validate(value: object) -> str:
        if not isinstance(value, str):
            raise wrong_type("a string")
        return check(value)

    return BeforeValidator(validate)


def _filled(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("too_short", "must not be empty")
    return value


def _matching(pattern: str, expected: str) -> BeforeValidator:
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"`{value}` is not {expected}")
        return value

    return _string(check)


def _measure(
    read: Callable[[object], float | int], expected: str, *, word: str = "", suffix: str = ""
) -> BeforeValidator:
    """A duration or size that *read* understands; *word* says that there is none, *suffix* may follow."""

    def validate(value: object) -> float | int | None:
        if word and value == word:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise wrong_type(expected)
        try:
            return read(value.removesuffix(suffix) if isinstance(value, str) and suffix else value)
        except ValueError as error:
            raise ValueError(f"{error}{f', or `{word}`' if word else ''}") from None

    return BeforeValidator(validate)


def _measure_schema(pattern: str, *, word: str = "", suffix: str = "") -> WithJsonSchema:
    text = f"^({pattern}|{units.NUMBER_PATTERN}){f'({suffix})?' if suffix else ''}$"
    shapes: list[Shape] = [{"type": "number", "minimum": 0}, {"type": "string", "pattern": text}]
    return WithJsonSchema({"anyOf": [*shapes, *([{"const": word}] if word else [])]})


def _count(value: object) -> object:
    """Digits in a string are a number too, so that a variable can stand for one."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type("a whole number in plain decimal digits")
    return value


def _version(value: object) -> object:
    if isinstance(value, bool) or value != 1 or not isinstance(value, int):
        raise wrong_type("1")  # `yes` and `1.0` equal 1 in Python
    return value


def _count_or_auto(value: object) -> object:
    if value == "auto":
        return None
    try:
        return _count(value)
    except PydanticCustomError:
        raise wrong_type("a whole number or auto") from None


def _word(value: object) -> str:
    """A whole number is as good as the string: both read the same in every YAML."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise wrong_type("a string")
    if "\0" in str(value):
        raise ValueError("a string for a program cannot hold a NUL character")
    return str(value)


def _once(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


_OPTIONS = ("--no-deps", "--pre", "--upgrade", "--no-build-isolation")
_OPTIONS_WITH_URL = ("--index-url", "--extra-index-url")


def _package(value: str) -> str:
    if not re.match(r"[A-Za-z0-9]", value) or "\n" in value:
        raise ValueError(f"`{value}` is not a package: write a name and perhaps versions, such as `numpy<2`")
    return value


def _layer_entry(value: str) -> str:
    if not value.startswith("-"):
        return _package(value)
    option, equals, url = value.partition("=")
    if option in _OPTIONS_WITH_URL and equals:
        urls.web_url(url)
    elif value not in _OPTIONS:
        known = ", ".join((*_OPTIONS, *(f"{name}=URL" for name in _OPTIONS_WITH_URL)))
        raise ValueError(f"`{value}` is none of the options that a layer may begin with: {known}")
    return value


def _ref(value: str) -> str:
    if not re.fullmatch(r"[^\s~^:?*\[\\-][^\s~^:?*\[\\]*", value) or ".." in value:
        raise ValueError(f"`{value}` is not a branch, a tag or a commit")
    return value


def _bound(value: object) -> PlanBound:
    if not isinstance(value, str):
        raise wrong_type("a condition such as `>=24GiB`")
    return PlanBound(*units.bound(value))


def _unpack(value: object) -> str:
    ways = {"False": "no", "True": "auto", "zip": "zip", "tar": "tar"}
    if not isinstance(value, (bool, str)) or str(value) not in ways:
        raise ValueError("`unpack` is false, true (by content), zip or tar")
    return ways[str(value)]


_DIGITS: Shape = {"type": "string", "pattern": "^[0-9]+$"}
_POSITIVE: Shape = {"type": "integer", "minimum": 1}
_ONE_OR_MORE: Shape = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
_A_DURATION, _A_SIZE = "a duration such as `15m`", "a size such as `100MiB`"

Duration = Annotated[
    float,
    _measure(units.duration_s, _A_DURATION),
    _measure_schema(units.DURATION_PATTERN),
    Kind("duration", "15m", "_s"),
]
DurationOrAuto = Annotated[
    float | None,
    _measure(units.duration_s, _A_DURATION, word="auto"),
    _measure_schema(units.DURATION_PATTERN, word="auto"),
    Kind("duration or `auto`", "30m", "_s", none="auto"),
]
Size = Annotated[
    int,
    _measure(units.size_bytes, _A_SIZE),
    _measure_schema(units.SIZE_PATTERN),
    Kind("size", "100MiB", "_bytes"),
]
Rate = Annotated[
    int,
    _measure(units.size_bytes, _A_SIZE, suffix="/s"),
    _measure_schema(units.SIZE_PATTERN, suffix="/s"),
    Kind("rate", "50KiB/s", "_bytes_per_s"),
]
RateOrNone = Annotated[
    int | None,
    _measure(units.size_bytes, _A_SIZE, word="none", suffix="/s"),
    _measure_schema(units.SIZE_PATTERN, word="none", suffix="/s"),
    Kind("rate or `none`", "300MiB/s", "_bytes_per_s", none="none"),
]
Count = Annotated[
    int,
    Field(ge=1),
    BeforeValidator(_count),
    WithJsonSchema({"anyOf": [_POSITIVE, _DIGITS]}),
    Kind("number, 1 or more", "2"),
]
CountOrZero = Annotated[
    int,
    Field(ge=0),
    BeforeValidator(_count),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, _DIGITS]}),
    Kind("number, 0 or more", "5"),
]
CountOrAuto = Annotated[
    Annotated[int, Field(ge=1)] | None,
    BeforeValidator(_count_or_auto),
    WithJsonSchema({"anyOf": [_POSITIVE, _DIGITS, {"const": "auto"}]}),
    Kind("number, 1 or more, or `auto`", "8", none="auto"),
]
Condition = Annotated[
    PlanBound,
    BeforeValidator(_bound),
    WithJsonSchema({"type": "string", "pattern": rf"^\s*(>=|<=|==|>|<)\s*({units.SIZE_PATTERN}|[0-9]+)\s*$"}),
    Kind("condition: `>=`, `>`, `<=`, `<` or `==`, and a size", '">=24GiB"'),
]

Version = Annotated[Literal[1], BeforeValidator(_version), Kind("`1`", "1")]
Text = Annotated[str, _string(lambda text: text), Kind("text", "one line for people")]
Filled = Annotated[
    str,
    _string(_filled),
    WithJsonSchema({"type": "string", "minLength": 1}),
    Kind("text, not empty", "warm up"),
]
Word = Annotated[
    str,
    BeforeValidator(_word),
    WithJsonSchema({"type": ["string", "integer"]}),
    Kind("text or whole number", "8188"),
]
Argv = Annotated[tuple[Word, ...], Field(min_length=1), Kind("list of words", "[python, main.py]")]
Environment = Annotated[
    dict[Annotated[str, _matching(r"[A-Za-z_][A-Za-z0-9_]*", "a name of an environment variable")], Word],
    Kind("mapping of names to text", '{PYTHONUNBUFFERED: "1"}'),
]
Name = Annotated[
    str,
    _matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", "a name: letters, digits and `._-`, first a letter or digit"),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}),
    Kind("name: letters, digits and `._-`", "my-models"),
]
SecretName = Annotated[
    str,
    _matching(NAME_OF_A_SECRET, "a name of a secret: capitals, digits and `_`, as an environment variable"),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME_OF_A_SECRET}$"}),
    Kind("name of an environment variable in capitals", "HF_TOKEN"),
]
SecretUse = Annotated[SecretName, NAMES_SECRET, Kind("name of a secret of this profile", "HF_TOKEN")]
HostName = Annotated[
    str,
    _matching(HOST_NAME, "a host name, such as `huggingface.co` (no scheme, no port)"),
    AfterValidator(str.lower),
    WithJsonSchema({"type": "string", "pattern": f"^{HOST_NAME}$"}),
    Kind("host name", "huggingface.co"),
]
TokenHost = Annotated[
    str,
    _matching(rf"{HOST_NAME}(:[0-9]{{1,5}})?", "a host name, such as `huggingface.co` (no scheme)"),
    AfterValidator(str.lower),
    WithJsonSchema({"type": "string", "pattern": f"^{HOST_NAME}(:[0-9]{{1,5}})?$"}),
    Kind("host name, perhaps with a port", "huggingface.co"),
]
Sha256 = Annotated[
    str,
    _matching(r"[0-9a-fA-F]{64}", "a sha256: 64 hexadecimal digits"),
    AfterValidator(str.lower),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}),
    Kind("64 hexadecimal digits", "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b"),
]
Mode = Annotated[
    str,
    _matching(r"[0-7]{3,4}", 'a file mode: octal digits in quotes, such as "0644"'),
    WithJsonSchema({"type": "string", "pattern": "^[0-7]{3,4}$"}),
    Kind("octal digits in quotes", '"0600"'),
]
Url = Annotated[
    str,
    _string(urls.download_url),
    WithJsonSchema({"type": "string", "pattern": urls.DOWNLOAD_PATTERN}),
    Kind("URL of a file", "hf://OWNER/REPO/model.safetensors"),
]
WebUrl = Annotated[
    str,
    _string(urls.web_url),
    WithJsonSchema({"type": "string", "pattern": "^https?://"}),
    Kind("http or https URL", "http://127.0.0.1:8188/system_stats"),
]
RepoUrl = Annotated[
    str,
    _string(urls.repo_url),
    WithJsonSchema({"type": "string"}),
    Kind("URL that git understands", "https://github.com/comfyanonymous/ComfyUI"),
]
Ref = Annotated[
    str,
    _string(_ref),
    WithJsonSchema({"type": "string", "minLength": 1}),
    Kind("branch, tag or commit", "v0.3.60"),
]
LayerEntry = Annotated[
    str,
    _string(_layer_entry),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^([A-Za-z0-9]|({'|'.join(_OPTIONS)})$|({'|'.join(_OPTIONS_WITH_URL)})=https?://)",
        }
    ),
    Kind("package, or an option of the installer", '"numpy<2"'),
]
"""A package, or before the first of them an option that pip and uv share."""
Package = Annotated[
    str,
    _string(_package),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9]"}),
    Kind("package, perhaps with versions", "xformers"),
]
AptPackage = Annotated[
    str,
    _matching(r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?([=/][\w.+:~-]+)?", "the name of a Debian package"),
    WithJsonSchema({"type": "string", "pattern": "^[a-z0-9][a-z0-9.+-]+"}),
    Kind("Debian package", "ffmpeg"),
]
Packages = Annotated[tuple[Package, ...], AfterValidator(_once)]
AptPackages = Annotated[tuple[AptPackage, ...], AfterValidator(_once)]
Module = Annotated[
    str,
    _matching(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", "a Python module's name"),
    WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"}),
    Kind("Python module", "torch"),
]
Accelerator = Annotated[
    str,
    _matching(r"auto|cpu|cu[0-9]{2,3}", "an accelerator: `auto`, `cpu`, or a CUDA build such as `cu128`"),
    WithJsonSchema({"type": "string", "pattern": "^(auto|cpu|cu[0-9]{2,3})$"}),
    Kind("`auto`, `cpu` or a CUDA build", "cu128"),
]
ItemPath = Annotated[str, _string(paths.item_path), Kind("path under the workspace", "ComfyUI/models/loras/")]
FolderPath = Annotated[str, _string(paths.folder_path), Kind("folder under the workspace", "ComfyUI")]
FilePath = Annotated[
    str, _string(paths.file_path), Kind("file under the workspace", "ComfyUI/extra_model_paths.yaml")
]
AnyPath = Annotated[
    str, _string(paths.any_path), Kind("path under the workspace, absolute, or `${home}/…`", "ComfyUI")
]
VenvPath = Annotated[
    str,
    _string(paths.venv_path),
    Kind("path under the workspace, absolute, or `~/…`; or `auto`", "/venv/main"),
]
Workspace = Annotated[
    str,
    _string(paths.workspace_path),
    WithJsonSchema({"type": "string", "pattern": "^(/|~/)"}),
    Kind("absolute path or `~/…`", "/data"),
]
Level = Literal["critical", "required", "optional"]
Unpack = Annotated[
    str,
    BeforeValidator(_unpack),
    WithJsonSchema({"enum": [False, True, "zip", "tar"]}),
    Kind("`false`, `true`, `zip` or `tar`", "true"),
]

Patterns = Annotated[
    tuple[AnyPath, ...],
    BeforeValidator(_one_or_more),
    Field(min_length=1),
    WithJsonSchema(_ONE_OR_MORE),
    Kind("pattern, or a list of them", "ComfyUI/models/**/*.safetensors"),
]
Versions = Annotated[
    tuple[Package, ...],
    BeforeValidator(_one_or_more),
    Field(min_length=1),
    WithJsonSchema(_ONE_OR_MORE),
    Kind("version, or a list of them", "[2.9.1, 2.7.1]"),
]
