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
    """Fewer bytes per second than this."""
    for_: Annotated[f.Duration, Field(alias="for"), Example("1m")] = 30.0
    """Over this long."""


class ItemLimits(Part):
    """What one download may take."""

    file: f.DurationOrAuto = None
    """The whole file, from all its sources. `auto`: 15 minutes, or a second per megabyte if that is longer; and it never ends while bytes arrive fast enough for `stall`."""
    attempt: Annotated[f.Duration, Example("5m")] = 600.0
    """One attempt that brings nothing new."""
    stall: Stall = Stall()
    """A transfer that is slower than this for this long is given up and tried elsewhere."""
    connect: Annotated[f.Duration, Example("20s")] = 10.0
    """Opening one connection."""
    lookup: Annotated[f.Duration, Example("1m")] = 30.0
    """Asking a source for size and hash; after that the download goes on without them."""
    attempts: Annotated[f.Count, Example("10")] = 5
    """Attempts in a row that bring nothing new; then the next source is tried."""
    connections: f.CountOrAuto = None
    """Connections at once for one file, at most. `auto` starts with 8 and adds more while the line is not full."""


class HostLimits(Part):
    """What one source host is asked for at once."""

    when_empty = "give `files`, `connections` or both"

    files: f.Count | None = None
    """Files at once, at most."""
    connections: f.Count | None = None
    """Connections for one file, at most."""


class Limits(ItemLimits):
    """What the run as a whole may take, and what each download may that says nothing else."""

    run: Annotated[f.Duration, Example("2h")] = 3600.0
    """The whole run. The instance keeps this limit itself, even if nobody is connected."""
    patience: Annotated[f.Duration, Example("5m")] = 60.0
    """How long a server that cannot be reached is tried, before what has no other source fails. Waits grow to 15 seconds and are shared by all that want it; other servers go on meanwhile. `attempts` does not count here."""
    files: f.CountOrAuto = None
    """Downloads at once, at most. `auto` starts with 4."""
    rate: f.RateOrNone = None
    """All downloads together bring no more bytes per second than this. `none`: as fast as the line."""
    hosts: dict[f.HostName, HostLimits] = {}
    """Source hosts that must not be asked for much at once. civitai.com and dropbox.com are built in."""


class Secret(Part):
    """A value from your environment. It is kept in memory only and cannot be used in `${}`."""

    hosts: tuple[f.TokenHost, ...] = ()
    """The https hosts that get it, as `Authorization: Bearer`; exactly these, no hosts below them."""
    aliases: Annotated[tuple[f.SecretName, ...], Example("[HUGGINGFACE_HUB_TOKEN]")] = ()
    """Other environment variables that may hold it, in order of preference."""


class Torch(Part):
    """PyTorch, from the index that suits driver and card."""

    version: Annotated[f.Versions, InPlan("versions")]
    """Versions in order of preference; the first that suits driver and card is taken."""
    accelerator: f.Accelerator = "auto"
    """`auto` chooses by the driver and the card; `cpu`, or a CUDA build such as `cu128`, is taken as given."""
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
    """The packages. Options of the installer may stand before the first one: `[--no-deps, xformers]`."""
    torch: Torch | None = None
    """PyTorch, in the build that driver and card want."""
    requirements: Annotated[f.FilePath, Example("ComfyUI/requirements.txt")] | None = None
    """A requirements file on the instance."""


class Python(Part):
    """The virtual environment and what is installed into it."""

    venv: f.VenvPath = "auto"
    """`auto` takes an environment whose torch already runs on this GPU, else `venv` in the workspace. A path is created if it is not there."""
    installer: Literal["auto", "uv", "pip"] = "auto"
    """`auto` takes uv if it is there or can be had, else pip."""
    timeout: f.Duration = 300.0
    """How long a connection to an index may be silent, as for pip."""
    retries: f.CountOrZero = 3
    """How often a connection to an index is tried again, as for pip."""
    layers: tuple[Annotated[Layer, BeforeValidator(_layer)], ...] = ()
    """Installed in this order."""
    remove: f.Packages = ()
    """Packages that are removed before the first layer."""
    protect: Annotated[f.Packages, Example("[torch, numpy]")] = ()
    """Packages whose version no later step may change."""


class Item(Part):
    """Something that the instance must have."""

    identity: ClassVar[str] = "path"
    """The key that says which item it is: of two with the same, the later one replaces the earlier one."""
    is_folder: ClassVar[bool] = False
    """May others lie below its `path`?"""

    level: f.Level = "required"
    """`critical` comes first and decides `usable`, `required` decides `complete`, `optional` only warns."""


class Repo(Item):
    """A git checkout."""

    is_folder = True

    url: f.RepoUrl
    """Where to clone from."""
    mirrors: tuple[f.RepoUrl, ...] = ()
    """Other places of the same repository, tried in order when the URL does not answer."""
    path: f.FolderPath
    """Where the checkout stands."""
    ref: f.Ref | None = None
    """What is checked out; the default branch otherwise."""
    submodules: StrictBool = False
    """Also fetch the submodules."""
    install: Annotated[f.FilePath, Example("requirements.txt")] | None = None
    """A requirements file inside the checkout, which is installed."""


class Substitute(Part):
    """Another file that stands in when every source of the wanted one says no; the outcome names it."""

    url: f.Url
    """Where the other file is."""
    path: Annotated[f.ItemPath, Example("ComfyUI/models/checkpoints/small.safetensors")]
    """Its own path, not that of the wanted file."""


class When(Part):
    """Conditions; all that are given must hold, or the item is skipped."""

    when_empty = "give `gpu_memory`, `secret` or `disk_free`, or remove `when`"

    gpu_memory: f.Condition | None = None
    """Memory of the largest GPU."""
    secret: f.SecretUse | None = None
    """This secret must be set."""
    disk_free: Annotated[f.Condition, Example('">=100GiB"')] | None = None
    """Free space in the workspace."""


class Download(Item):
    """One file, or a whole repository of a model hub."""

    of_one_file: ClassVar[tuple[str, ...]] = ("mirrors", "substitute", "size", "sha256", "unpack")
    """Keys that mean nothing for a whole repository."""
    of_a_repository: ClassVar[tuple[str, ...]] = ("include", "exclude")
    """Keys that mean nothing for one file."""

    url: f.Url
    """Where it is: a URL, or a short form such as `hf://OWNER/REPO/FILE`; `hf://OWNER/REPO` is a whole repository."""
    mirrors: tuple[f.Url, ...] = ()
    """Other sources of the same content, tried in order."""
    substitute: Substitute | None = None
    """Another file that stands in when every source says no."""
    path: f.ItemPath
    """Where it goes. With a `/` at the end it is a folder, and the file keeps the name that its server gives; any number of downloads may share a folder."""
    size: f.Size | None = None
    """The exact size."""
    sha256: f.Sha256 | None = None
    """The hash of the content."""
    when: When | None = None
    """Fetch it only where all of this holds."""
    limits: ItemLimits = ItemLimits()
    """What this file may take; what is left out is as in the profile's `limits`."""
    unpack: Annotated[f.Unpack, Field(json_schema_extra={"default": False})] = "no"
    """Unpack it into the folder of `path`; `true` finds out by its content what it is. The archive is kept."""
    include: Annotated[tuple[f.Filled, ...], Example('["*.safetensors"]')] = ()
    """Of a whole repository only files that match one of these."""
    exclude: Annotated[tuple[f.Filled, ...], Example('["*.bin"]')] = ()
    """Of a whole repository no file that matches one of these."""


class File(Item):
    """A small text file, written as given."""

    path: f.FilePath
    """Where it is written."""
    content: Annotated[f.Text, Example('"models: /data/models\\n"')]
    """The whole content; `${name}` is filled in, `$${` stands for `${`."""
    mode: f.Mode = "0644"
    """Permissions."""


class Command(Item):
    """One program, run to its end after repositories and downloads; without a shell, and `python` is the environment's."""

    identity = "name"

    name: f.Filled
    """What it is called in events and logs."""
    run: f.Argv
    """Program and arguments, one word each."""
    directory: f.AnyPath = "."
    """Where it runs."""
    environment: f.Environment = {}
    """Variables added to its environment."""
    secrets: tuple[f.SecretUse, ...] = ()
    """Secrets that it gets as environment variables."""
    timeout: f.Duration = 600.0
    """After this it is ended, with all that it started."""


class Check(Item):
    """What must be there: one of `path`, `glob` and `imports`."""

    identity = "name"
    one_of = ("path", "glob", "imports")
    only_with: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "min_count": ("glob",),
        "min_size": ("glob", "path"),
    }

    name: Annotated[f.Filled, Example("Checkpoints")]
    """What it is called in events and logs."""
    path: Annotated[f.AnyPath, Example("ComfyUI/main.py")] | None = None
    """A file or folder that must exist."""
    glob: Annotated[f.Patterns, Example("ComfyUI/models/**/*.safetensors")] | None = None
    """Files that match any of these, counted together; `**` means any folders."""
    min_count: f.Count = 1
    """How many files must match."""
    min_size: f.Size = 0
    """Smaller files do not count."""
    imports: Annotated[tuple[f.Module, ...], Field(min_length=1)] | None = None
    """Modules that the environment's python must be able to import."""


class Ready(Part):
    """When a service counts as up."""

    url: f.WebUrl
    """Asked on the instance itself."""
    within: f.Duration = 600.0
    """How long it may take from its start."""
    successes: f.Count = 2
    """Good answers in a row."""
    json_: Annotated[dict[str, object], Field(alias="json"), Example("{devices: not_empty}")] = {}
    """Fields that the JSON answer must have: the exact value, or `not_empty` for any that is not empty."""


class Service(Item):
    """A program that outlives the run."""

    identity = "name"

    name: Annotated[f.Filled, Example("comfyui")]
    """What it is called in events and logs."""
    run: f.Argv
    """Program and arguments, one word each; `python` is the environment's."""
    directory: f.AnyPath = "."
    """Where it runs."""
    environment: f.Environment = {}
    """Variables added to its environment."""
    ready: Ready | None = None
    """When it counts as up; without this as soon as it runs."""
    restart: Literal["never", "on_failure"] = "never"
    """`on_failure` starts it again when it ends with an error, a bounded number of times with growing pauses."""
    start: Literal["usable", "complete"] = "usable"
    """Started as soon as everything critical is there, or when everything is."""


class Hook(Part):
    """A command that the instance runs after `failed` or `timeout`, even if nobody listens."""

    is_merged = False

    run: Annotated[f.Argv, Example('[vastai, destroy, instance, "${run_id}"]')]
    """Program and arguments, one word each; `${run_id}` says which run it was."""
    secrets: tuple[f.SecretUse, ...] = ()
    """Secrets that it gets as environment variables."""
    timeout: f.Duration = 300.0
    """After this it is ended."""


class Markers(Part):
    """How the log of somebody else's script says that it ended, for `provision collect`."""

    success: Annotated[tuple[f.Filled, ...], Example('["ALL DONE"]')] = SUCCESS_MARKERS
    """A line with one of these means that all went well."""
    failure: Annotated[tuple[f.Filled, ...], Example('["Traceback"]')] = FAILURE_MARKERS
    """A line with one of these means that it failed."""


class Document(Part):
    """What a GPU instance must have: a provision profile."""

    version: Annotated[f.Version, NOT_IN_PLAN, AS_WRITTEN]
    """The version of this language."""
    name: Annotated[f.Name, AS_WRITTEN, Field(json_schema_extra={"default": None})] = "profile"
    """What it is called; the file's name if this is left out."""
    description: Annotated[f.Text, NOT_IN_PLAN] = ""
    """One line for people."""
    workspace: f.Workspace = "/workspace"
    """Where everything goes."""
    variables: Annotated[dict[str, f.Word], NOT_IN_PLAN, AS_WRITTEN, Example("{model: flux1-dev}")] = {}
    """Values for `${name}`; `--set NAME=VALUE` overrides them."""
    secrets: Annotated[dict[f.SecretName, Secret], NOT_IN_PLAN, AS_WRITTEN] = {}
    """Tokens and keys from your environment; kept in memory only."""
    strict: StrictBool = False
    """Stop at the first critical failure, and start no service."""
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
    """What must be there at the end."""
    services: tuple[Service, ...] = ()
    """Programs that outlive the run."""
    on_failure: Hook | None = None
    """Run by the instance after `failed` or `timeout`, even if nobody is connected."""
    markers: Annotated[Markers, NOT_IN_PLAN, AS_WRITTEN] = Markers()
    """Lines that end `provision collect`, when it watches somebody else's script."""


SECTIONS: dict[str, type[Item]] = {
    name: part
    for name, field in Document.model_fields.items()
    if (part := part_in(field.annotation)) is not None and issubclass(part, Item)
}
"""The lists of items, by their key."""
