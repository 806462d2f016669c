"""The language of profiles, as pydantic models: names, types, defaults, descriptions; the only list of its fields.

The compiler, the rules, the JSON Schema and the reference page read it. A value reaches the plan's field of the
same name, with the unit of its kind added (`size` becomes `size_bytes`), unless `InPlan` or `NOT_IN_PLAN` says
otherwise. The models are strict and know nothing of YAML, marks, `extends` or `${}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from . import fields as f
from .notes import AS_WRITTEN, NOT_IN_PLAN, Example, InPlan, part_in

SUCCESS_MARKERS = ("✅ PROVISIONING COMPLETE", "✅ ComfyUI setup complete")
FAILURE_MARKERS = ("FATAL:", "CRITICAL ERROR:")


class Part(BaseModel):
    """A mapping of a profile: no unknown keys, no conversions."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    is_merged: ClassVar[bool] = True
    """Does `extends` lay it over the base key by key? Otherwise it replaces the base's as a whole."""
    one_of: ClassVar[tuple[str, ...]] = ()
    """Exactly one of these keys is given."""
    only_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Keys that mean something only beside one of others."""
    when_empty: ClassVar[str] = ""
    """What to write, if an empty mapping is a mistake."""


class Stall(Part):
    """When a transfer counts as stalled, so that it is tried elsewhere."""

    below: f.Rate = 50 * 1024
    """Bytes landed per second, such as 50KiB."""
    for_: Annotated[f.Duration, Field(alias="for")] = 30.0
    """Over how long."""


class ItemLimits(Part):
    """What one download may take."""

    file: f.DurationOrAuto = None
    """All sources together; auto: max(15m, size / 1 MB/s), and never while bytes land above the stall floor."""
    attempt: f.Duration = 600.0
    """One attempt without progress."""
    stall: Stall = Stall()
    """Below this speed for this long, the transfer is given up and tried elsewhere."""
    connect: f.Duration = 10.0
    """Opening one connection."""
    lookup: f.Duration = 30.0
    """Asking a source for size and hash; after that the download goes on without."""
    attempts: f.Count = 5
    """Attempts in a row without progress."""
    connections: f.CountOrAuto = None
    """At once for one file; a number is the most. auto starts at 8 and grows while the line is not full."""


class HostLimits(Part):
    """What one source host is asked for at once."""

    when_empty = "give `files`, `connections` or both"

    files: f.Count | None = None
    """Files at once."""
    connections: f.Count | None = None
    """Connections per file."""


class Limits(ItemLimits):
    """What the run as a whole may take, and what each download may that says nothing else."""

    run: f.Duration = 3600.0
    """The whole run, kept by the agent itself."""
    files: f.CountOrAuto = None
    """Downloads at once; a number is the most. auto starts at 4."""
    rate: f.RateOrNone = None
    """Bytes per second for all downloads together, such as 300MiB; none: as fast as it goes."""
    hosts: dict[f.HostName, HostLimits] = {}
    """Source hosts that want to be treated gently. civitai.com and dropbox.com are built in."""


class Secret(Part):
    """A value from the caller's environment; kept in memory only, never usable in ${}."""

    hosts: tuple[f.TokenHost, ...] = ()
    """The exact https hosts that get it as `Authorization: Bearer`."""
    aliases: tuple[f.SecretName, ...] = ()
    """Other environment variables that may hold it."""


class Torch(Part):
    """PyTorch, from the index that suits driver and card."""

    version: Annotated[f.Versions, InPlan("versions")]
    """Candidates in order of preference; the first that suits driver and card is taken."""
    accelerator: f.Accelerator = "auto"
    """auto, cpu, or a CUDA build such as cu128."""
    with_: Annotated[
        tuple[f.Package, ...], Field(alias="with"), InPlan("extras"), Example("[torchvision]")
    ] = ()
    """Packages from the same index, in versions that fit."""


def _layer(value: object) -> object:
    if not isinstance(value, (list, dict)):
        raise f.wrong_type("a list of packages, `torch: …` or `requirements: …`")
    return {"packages": value} if isinstance(value, list) else value


class Layer(Part):
    """One install step: a list of packages, torch, or a requirements file."""

    one_of = ("packages", "torch", "requirements")

    packages: tuple[f.LayerEntry, ...] = ()
    """Before the first package, options of the installer: [--no-deps, xformers]."""
    torch: Torch | None = None
    """PyTorch, in the build that driver and card want."""
    requirements: Annotated[f.FilePath, Example("ComfyUI/requirements.txt")] | None = None
    """A requirements file on the instance, such as ComfyUI/requirements.txt."""


class Python(Part):
    """The virtual environment and what is installed into it."""

    venv: f.VenvPath = "auto"
    """auto: one whose torch already runs on this GPU, else <workspace>/venv; or a path, created if absent."""
    installer: Literal["auto", "uv", "pip"] = "auto"
    """auto: uv if it is there or can be had, else pip."""
    timeout: f.Duration = 300.0
    """Per connection, as pip means it."""
    retries: f.CountOrZero = 3
    """As pip means them."""
    layers: tuple[Annotated[Layer, BeforeValidator(_layer)], ...] = ()
    """Installed in this order."""
    remove: f.Packages = ()
    """Removed before the first layer."""
    protect: f.Packages = ()
    """No later step may replace these."""


class Item(Part):
    """Something that the instance must have."""

    identity: ClassVar[str] = "path"
    """The key that says which item it is: of two with the same, the later one replaces the earlier one."""
    is_folder: ClassVar[bool] = False
    """May others lie below its `path`?"""

    level: f.Level = "required"
    """critical items come first and decide `usable`, required ones decide `complete`, optional ones only warn."""


class Repo(Item):
    """A git checkout."""

    is_folder = True

    url: f.RepoUrl
    """Where to clone from."""
    mirrors: tuple[f.RepoUrl, ...] = ()
    """Tried in order when the URL does not answer."""
    path: f.FolderPath
    """The folder, under the workspace."""
    ref: f.Ref | None = None
    """A branch, a tag or a commit; the default branch otherwise."""
    submodules: StrictBool = False
    """Also fetch the submodules."""
    install: Annotated[f.FilePath, Example("requirements.txt")] | None = None
    """A requirements file inside the checkout that is installed."""


class Substitute(Part):
    """Explicitly something else, when every source of the wanted file says no; reported as such."""

    url: f.Url
    """Where the other file is."""
    path: f.ItemPath
    """Its own path, under the workspace."""


class When(Part):
    """Conditions; all that are given must hold, or the item is skipped."""

    when_empty = "give `gpu_memory`, `secret` or `disk_free`, or remove `when`"

    gpu_memory: f.Condition | None = None
    """Memory of the GPU, such as ">=24GiB"."""
    secret: f.SecretUse | None = None
    """This secret is set."""
    disk_free: Annotated[f.Condition, Example('">=100GiB"')] | None = None
    """Free space in the workspace, such as ">=100GiB"."""


class Download(Item):
    """One file, or a whole repository of a model hub."""

    of_one_file: ClassVar[tuple[str, ...]] = ("mirrors", "substitute", "size", "sha256", "unpack")
    """Keys that mean nothing for a whole repository."""
    of_a_repository: ClassVar[tuple[str, ...]] = ("include", "exclude")
    """Keys that mean nothing for one file."""

    url: f.Url
    """Where it is: https, http, file, hf or civitai; hf://OWNER/REPO, perhaps with a folder/, is a whole repository."""
    mirrors: tuple[f.Url, ...] = ()
    """Tried in order; must be the same content."""
    substitute: Substitute | None = None
    """Explicitly something else, when every source says no."""
    path: f.ItemPath
    """Under the workspace; a trailing / takes the server's name. Any number of sources may share such a folder."""
    size: f.Size | None = None
    """Exact size in bytes."""
    sha256: f.Sha256 | None = None
    """Of the content, 64 hexadecimal digits."""
    when: When | None = None
    """Skip the file unless all of this holds."""
    limits: ItemLimits = ItemLimits()
    """Laid over the profile's limits."""
    unpack: Annotated[f.Unpack, Field(json_schema_extra={"default": False})] = "no"
    """false, true (by content), zip or tar; into the folder of `path`. The archive is kept."""
    include: Annotated[tuple[f.Filled, ...], Example('["*.safetensors"]')] = ()
    """Of a whole repository only files that match one of these, such as *.safetensors."""
    exclude: Annotated[tuple[f.Filled, ...], Example('["*.bin"]')] = ()
    """Of a whole repository no file that matches one of these."""


class File(Item):
    """A small text file, written as given."""

    path: f.FilePath
    """Under the workspace."""
    content: Annotated[f.Text, Example('"models: /data/models\\n"')]
    """The whole content; `${name}` is filled in, `$${` is a literal `${`."""
    mode: f.Mode = "0644"
    """Octal digits, in quotes."""


class Command(Item):
    """One program, run to its end after repos and downloads: argv, no shell; python is the environment's."""

    identity = "name"

    name: f.Filled
    """What it is called in events and logs."""
    run: f.Argv
    """Program and arguments."""
    directory: f.AnyPath = "."
    """Where it runs, under the workspace."""
    environment: f.Environment = {}
    """Variables added to its environment."""
    secrets: tuple[f.SecretUse, ...] = ()
    """Secrets that it gets as environment variables."""
    timeout: f.Duration = 600.0
    """Then it is ended, with all that it started."""


class Check(Item):
    """What must be there: one of `path`, `glob` and `imports`."""

    identity = "name"
    one_of = ("path", "glob", "imports")
    only_with: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "min_count": ("glob",),
        "min_size": ("glob", "path"),
    }

    name: f.Filled
    """What it is called in events and logs."""
    path: f.AnyPath | None = None
    """A file or folder that must exist."""
    glob: f.Patterns | None = None
    """Files that match any of these; ** recurses; counts add up."""
    min_count: f.Count = 1
    """How many files must match."""
    min_size: f.Size = 0
    """Smaller files do not count."""
    imports: Annotated[tuple[f.Module, ...], Field(min_length=1)] | None = None
    """Modules that the environment's python must import."""


class Ready(Part):
    """When a service counts as up."""

    url: f.WebUrl
    """Asked on the instance itself."""
    within: f.Duration = 600.0
    """From its start."""
    successes: f.Count = 2
    """Good answers in a row."""
    json_: Annotated[dict[str, object], Field(alias="json"), Example("{devices: not_empty}")] = {}
    """Fields of the answer: a value that must be equal, or not_empty."""


class Service(Item):
    """A program that outlives the run."""

    identity = "name"

    name: f.Filled
    """What it is called in events and logs."""
    run: f.Argv
    """Program and arguments; python is the environment's."""
    directory: f.AnyPath = "."
    """Where it runs, under the workspace."""
    environment: f.Environment = {}
    """Variables added to its environment."""
    ready: Ready | None = None
    """When it counts as up; otherwise as soon as it runs."""
    restart: Literal["never", "on_failure"] = "never"
    """on_failure: bounded, with backoff."""
    start: Literal["usable", "complete"] = "usable"
    """Started when all critical items are there, or when everything is."""


class Hook(Part):
    """A command that the instance runs after `failed` or `timeout`, even if nobody listens."""

    is_merged = False

    run: f.Argv
    """Program and arguments; ${run_id} says which run it was."""
    secrets: tuple[f.SecretUse, ...] = ()
    """Secrets that it gets as environment variables."""
    timeout: f.Duration = 300.0
    """Then it is ended."""


class Markers(Part):
    """What the last line of a log of some other script looks like."""

    success: tuple[f.Filled, ...] = SUCCESS_MARKERS
    """Texts of a line that mean that all went well."""
    failure: tuple[f.Filled, ...] = FAILURE_MARKERS
    """Texts of a line that mean that it failed."""


class Document(Part):
    """What a GPU instance must have: a provision profile."""

    version: Annotated[f.Version, NOT_IN_PLAN, AS_WRITTEN]
    """Version of this language: 1."""
    name: Annotated[f.Name, AS_WRITTEN] = "profile"
    """The file's name if not given."""
    description: Annotated[f.Text, NOT_IN_PLAN] = ""
    """One line for people."""
    workspace: f.Workspace = "/workspace"
    """Where everything goes; relative paths are under it."""
    variables: Annotated[dict[str, f.Word], NOT_IN_PLAN, AS_WRITTEN, Example("{model: flux1-dev}")] = {}
    """Values for ${name}; `--set NAME=VALUE` overrides them. workspace, home and run_id are built in."""
    secrets: Annotated[dict[f.SecretName, Secret], NOT_IN_PLAN, AS_WRITTEN] = {}
    """From the caller's environment; sent on stdin, kept in memory only."""
    strict: StrictBool = False
    """Stop at the first critical failure and start no service."""
    limits: Limits = Limits()
    """What the run and its downloads may take."""
    apt: f.AptPackages = ()
    """Debian packages."""
    python: Python | None = None
    """The virtual environment."""
    repos: tuple[Repo, ...] = ()
    """Git checkouts."""
    downloads: tuple[Download, ...] = ()
    """Files to fetch."""
    files: tuple[File, ...] = ()
    """Small text files to write."""
    commands: tuple[Command, ...] = ()
    """Programs to run once."""
    checks: tuple[Check, ...] = ()
    """What must be there in the end."""
    services: tuple[Service, ...] = ()
    """Programs that outlive the run."""
    on_failure: Hook | None = None
    """Run on the instance after `failed` or `timeout`."""
    markers: Annotated[Markers, NOT_IN_PLAN, AS_WRITTEN] = Markers()
    """Lines that end `provision collect`."""


SECTIONS: dict[str, type[Item]] = {
    name: part
    for name, field in Document.model_fields.items()
    if (part := part_in(field.annotation)) is not None and issubclass(part, Item)
}
"""The lists of items, by their key."""
