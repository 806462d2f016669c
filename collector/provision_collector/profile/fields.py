"""The kinds of value that a profile's fields have: each with its check, its JSON Schema and what people call it."""

from __future__ import annotations

from typing import Annotated, Literal

from provision_agent.contract.plan_parts import Bound as PlanBound
from provision_agent.contract.plan_parts import Compared as PlanCompared
from pydantic import AfterValidator, BeforeValidator, Field

from . import field_checks as checks
from . import paths, units, urls
from .field_checks import Form, Shape, matching, measure, string
from .notes import MAY_BE_DEFAULT, NAMES_SECRET, Kind

NAME_OF_A_SECRET = r"[A-Z_][A-Z0-9_]*"  # noqa: S105  # a pattern
HOST_NAME = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"

_DIGITS: Shape = {"type": "string", "pattern": "^[0-9]+$"}
_POSITIVE: Shape = {"type": "integer", "minimum": 1}
_ONE_OR_MORE: Shape = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
_A_DURATION, _A_SIZE = "a duration such as `15m`", "a size such as `100MiB`"

Duration = Annotated[
    float,
    measure(units.duration_s, units.DURATION_PATTERN, _A_DURATION),
    Kind("duration", "15m", "_s"),
]
DurationOrAuto = Annotated[
    float | None,
    measure(units.duration_s, units.DURATION_PATTERN, _A_DURATION, word="auto"),
    Kind("duration or `auto`", "30m", "_s", none="auto"),
]
Size = Annotated[
    int,
    measure(units.size_bytes, units.SIZE_PATTERN, _A_SIZE),
    Kind("size", "100MiB", "_bytes"),
]
Rate = Annotated[
    int,
    measure(units.size_bytes, units.SIZE_PATTERN, _A_SIZE, suffix="/s"),
    Kind("rate", "50KiB/s", "_bytes_per_s"),
]
RateOrNone = Annotated[
    int | None,
    measure(units.size_bytes, units.SIZE_PATTERN, _A_SIZE, word="none", suffix="/s"),
    Kind("rate or `none`", "300MiB/s", "_bytes_per_s", none="none"),
]
Count = Annotated[
    int,
    Field(ge=1),
    Form(checks.count, {"anyOf": [_POSITIVE, _DIGITS]}),
    Kind("number, 1 or more", "2"),
]
CountOrZero = Annotated[
    int,
    Field(ge=0),
    Form(checks.count, {"anyOf": [{"type": "integer", "minimum": 0}, _DIGITS]}),
    Kind("number, 0 or more", "5"),
]
CountOrAuto = Annotated[
    Annotated[int, Field(ge=1)] | None,
    Form(checks.count_or_auto, {"anyOf": [_POSITIVE, _DIGITS, {"const": "auto"}]}),
    Kind("number, 1 or more, or `auto`", "8", none="auto"),
]
_OPERATOR = "(>=|<=|==|!=|=|>|<)"


def _conditions(pattern: str) -> Shape:
    """A text with a condition, or a list of them."""
    text: Shape = {"type": "string", "pattern": pattern}
    return {"anyOf": [text, {"type": "array", "items": text, "minItems": 1}]}


def _compared(value: str, example: str, plain: str = "==", *, may_be_number: bool = False) -> Form:
    """One condition on a *value* of that pattern, or a list of them; without an operator it means *plain*."""
    shape = _conditions(rf"^\s*{_OPERATOR}?\s*{value}\s*$")
    if may_be_number:
        shape = {"anyOf": [{"type": "integer", "minimum": 0}, shape]}
    return Form(checks.compared(value, example, plain), shape)


_A_CAPABILITY, _A_NUMBER, _A_PYTHON = (
    r"[0-9]{1,3}(\.[0-9]{1,2})?",
    r"[0-9]{1,6}",
    r"[0-9]{1,2}(\.[0-9]{1,3}){0,2}",
)

Condition = Annotated[
    PlanBound,
    Form(
        checks.bound,
        _conditions(rf"^\s*{_OPERATOR}\s*({units.SIZE_PATTERN}|[0-9]+)\s*$"),
    ),
    Kind("condition: `>=`, `>`, `<=`, `<`, `=` or `!=`, and a size; or a list of them", '">=24GiB"'),
]
CapabilityCondition = Annotated[
    tuple[PlanCompared, ...],
    _compared(_A_CAPABILITY, ">=8.9"),
    Kind("condition with a compute capability, or a list of them", '">=8.9"'),
]
CountCondition = Annotated[
    tuple[PlanCompared, ...],
    _compared(_A_NUMBER, ">=2", may_be_number=True),
    Kind("condition with a number, or a list of them", '">=2"'),
]
PythonCondition = Annotated[
    tuple[PlanCompared, ...],
    _compared(_A_PYTHON, ">=3.11"),
    Kind("condition with a version, or a list of them", '">=3.11"'),
]
LeastMemory = Annotated[
    PlanBound,
    Form(checks.least, _conditions(rf"^\s*{_OPERATOR}?\s*({units.SIZE_PATTERN}|[0-9]+)\s*$")),
    Kind("size, which means at least that, or a condition as in `when`", '"24GiB"'),
]
LeastCapability = Annotated[
    tuple[PlanCompared, ...],
    _compared(_A_CAPABILITY, ">=8.9", ">="),
    Kind("compute capability, which means at least that, or a condition as in `when`", '"8.9"'),
]
LeastCount = Annotated[
    tuple[PlanCompared, ...],
    _compared(_A_NUMBER, ">=2", ">=", may_be_number=True),
    Kind("number, which means at least that, or a condition as in `when`", "2"),
]
LineRate = Annotated[
    int,
    measure(units.line_bytes_per_s, units.LINE_PATTERN, "a rate such as `200Mbit`", suffix="/s"),
    Kind("rate in bits or bytes", "200Mbit", "_bytes_per_s"),
]
GpuName = Annotated[
    tuple[str, ...],
    Form(checks.gpu_names, _ONE_OR_MORE),
    Kind("part of a name or pattern, or a list of them", '"RTX 4090 | RTX 5090"'),
]

Version = Annotated[Literal[1], BeforeValidator(checks.version), Kind("`1`", "1")]
Text = Annotated[str, string(str), Kind("text", "one line for people")]
Filled = Annotated[
    str,
    string(checks.filled, minLength=1),
    Kind("text, not empty", "warm up"),
]
LogPattern = Annotated[
    str,
    string(checks.log_pattern, minLength=1),
    Kind("regular expression", "CUDA error"),
]
Word = Annotated[
    str,
    Form(checks.word, {"type": ["string", "integer"]}),
    Kind("text or whole number", "8188"),
]
Argv = Annotated[tuple[Word, ...], Field(min_length=1), Kind("list of words", "[python, main.py]")]
Environment = Annotated[
    dict[Annotated[str, matching(r"[A-Za-z_][A-Za-z0-9_]*", "a name of an environment variable")], Word],
    Kind("mapping of names to text", '{PYTHONUNBUFFERED: "1"}'),
]
Name = Annotated[
    str,
    matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", "a name: letters, digits and `._-`, first a letter or digit"),
    Kind("name: letters, digits and `._-`", "my-models"),
]
SecretName = Annotated[
    str,
    matching(NAME_OF_A_SECRET, "a name of a secret: capitals, digits and `_`, as an environment variable"),
    Kind("name of an environment variable in capitals", "HF_TOKEN"),
]
UserName = Annotated[
    str,
    matching(r"[\x21-\x39\x3b-\x7e]+", "a name for a login: visible characters without `:`"),
    Kind("name, without `:`", "reader"),
]
HeaderName = Annotated[
    str,
    string(checks.header_name, pattern="^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"),
    Kind("name of a header", "X-Api-Key"),
]
SecretCondition = Annotated[
    SecretName,
    NAMES_SECRET,
    MAY_BE_DEFAULT,
    Kind("name of a secret of this profile, or a built-in one", "HF_TOKEN"),
]
SecretUse = Annotated[SecretName, NAMES_SECRET, Kind("name of a secret of this profile", "HF_TOKEN")]
HostName = Annotated[
    str,
    matching(HOST_NAME, "a host name, such as `huggingface.co` (no scheme, no port)"),
    AfterValidator(str.lower),
    Kind("host name", "huggingface.co"),
]
TokenHost = Annotated[
    str,
    matching(rf"{HOST_NAME}(:[0-9]{{1,5}})?", "a host name, such as `huggingface.co` (no scheme)"),
    AfterValidator(str.lower),
    Kind("host name, perhaps with a port", "huggingface.co"),
]
BucketName = Annotated[
    str,
    matching(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", "a bucket's name: letters, digits and `._-`"),
    Kind("bucket's name", "my-models"),
]
Endpoint = Annotated[
    str,
    string(urls.endpoint_url, pattern="^https?://"),
    Kind("https URL without a path", "https://ACCOUNT.r2.cloudflarestorage.com"),
]
Region = Annotated[
    str,
    matching(r"[a-z0-9-]{1,64}", "a region, such as `eu-west-1`"),
    Kind("region", "eu-west-1"),
]
Sha256 = Annotated[
    str,
    matching(r"[0-9a-fA-F]{64}", "a sha256: 64 hexadecimal digits"),
    AfterValidator(str.lower),
    Kind("64 hexadecimal digits", "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b"),
]
Mode = Annotated[
    str,
    matching(r"[0-7]{3,4}", 'a file mode: octal digits in quotes, such as "0644"'),
    Kind("octal digits in quotes", '"0600"'),
]
Url = Annotated[
    str,
    string(urls.download_url, pattern=urls.DOWNLOAD_PATTERN),
    Kind("URL of a file", "hf://OWNER/REPO/model.safetensors"),
]
WebUrl = Annotated[
    str,
    string(urls.web_url, pattern="^https?://"),
    Kind("http or https URL", "http://127.0.0.1:8188/system_stats"),
]
PublicUrl = Annotated[
    str,
    string(checks.public_url, pattern="^https?://"),
    Kind("http or https URL, perhaps with `${host}`", '"http://${host}:8188/"'),
]
IndexPattern = Annotated[
    str,
    string(checks.index_pattern, pattern="^https?://"),
    Kind("http or https URL, perhaps with `{accelerator}`", "https://mirror.example.org/whl/{accelerator}"),
]
CachePattern = Annotated[
    str,
    string(checks.cache_pattern, pattern="^https?://.*"),
    Kind("http or https URL with `{host}` and `{path}`", "http://10.0.0.2:8080/{host}/{path}"),
]
WheelPlace = Annotated[
    str,
    string(checks.wheel_place, minLength=1),
    Kind("http or https URL, or a folder under the workspace or absolute", "https://example.org/wheels/"),
]
WheelTemplate = Annotated[
    str,
    string(checks.wheel_template, pattern=r"^(https?|file)://.*\.whl(#.*)?$"),
    Kind(
        "address of a wheel, with placeholders",
        '"https://example.org/sage-{python}-{torch}-{cuda}-sm{capability}.whl"',
    ),
]
RepoUrl = Annotated[
    str,
    string(urls.repo_url),
    Kind(
        "`https://…`, `http://…`, `ssh://…`, `git@HOST:OWNER/NAME.git`, `git://…` or `file:///PATH` of the instance",
        "https://github.com/comfyanonymous/ComfyUI",
    ),
]
Ref = Annotated[
    str,
    string(checks.ref, minLength=1),
    Kind("branch, tag or commit", "v0.3.60"),
]
LayerEntry = Annotated[
    str,
    string(checks.layer_entry, pattern=checks.LAYER_ENTRY_PATTERN),
    Kind("package, or an option of the installer", '"numpy<2"'),
]
"""A package, or before the first of them an option that pip and uv share."""
Package = Annotated[
    str,
    string(checks.package, pattern="^[A-Za-z0-9]"),
    Kind("package, perhaps with versions", "xformers"),
]
AptPackage = Annotated[
    str,
    matching(r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?([=/][\w.+:~-]+)?", "the name of a Debian package"),
    Kind("Debian package", "ffmpeg"),
]
Packages = Annotated[tuple[Package, ...], AfterValidator(checks.once)]
AptPackages = Annotated[tuple[AptPackage, ...], AfterValidator(checks.once)]
Module = Annotated[
    str,
    matching(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", "a Python module's name"),
    Kind("Python module", "torch"),
]
Accelerator = Annotated[
    str,
    matching(r"auto|cpu|cu[0-9]{2,3}", "an accelerator: `auto`, `cpu`, or a CUDA build such as `cu128`"),
    Kind("`auto`, `cpu` or a CUDA build", "cu128"),
]
LocalPath = Annotated[
    str,
    string(checks.local_path, minLength=1),
    Kind("file or folder of this machine", "./loras/"),
]
HomeFolder = Annotated[
    str,
    string(checks.home_folder, minLength=1),
    Kind("folder below that of the outputs", "pictures"),
]
ItemPath = Annotated[str, string(paths.item_path), Kind("path under the workspace", "ComfyUI/models/loras/")]
FolderPath = Annotated[str, string(paths.folder_path), Kind("folder under the workspace", "ComfyUI")]
FilePath = Annotated[
    str, string(paths.file_path), Kind("file under the workspace", "ComfyUI/extra_model_paths.yaml")
]
AnyPath = Annotated[
    str, string(paths.any_path), Kind("path under the workspace, absolute, or `${home}/…`", "ComfyUI")
]
VenvPath = Annotated[
    str,
    string(paths.venv_path),
    Kind("path under the workspace, absolute, or `~/…`; or `auto`", "/venv/main"),
]
KeptPath = Annotated[
    str,
    string(paths.venv_path),
    Kind("path under the workspace, absolute, or `~/…`", "/volume/wheels"),
]
Workspace = Annotated[
    str,
    string(paths.workspace_path, pattern="^(/|~/)"),
    Kind("absolute path or `~/…`", "/data"),
]
Level = Literal["critical", "required", "optional"]
Unpack = Annotated[
    str,
    Form(checks.unpack, {"enum": [False, True, "zip", "tar"]}),
    Kind("`false`, `true`, `zip` or `tar`", "true"),
]

Patterns = Annotated[
    tuple[AnyPath, ...],
    Field(min_length=1),
    Form(checks.one_or_more, _ONE_OR_MORE),
    Kind("pattern, or a list of them", "ComfyUI/models/**/*.safetensors"),
]
Versions = Annotated[
    tuple[Package, ...],
    Field(min_length=1),
    Form(checks.one_or_more, _ONE_OR_MORE),
    Kind("version, or a list of them", "[2.9.1, 2.7.1]"),
]
