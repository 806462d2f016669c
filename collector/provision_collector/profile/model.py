"""The language of profiles, as pydantic models: names, types, defaults, descriptions; the only list of its fields.

Here are the items and the document; `model_parts` and `model_python` hold the mappings inside them. The compiler,
the rules, the JSON Schema and the reference page read them all. A value reaches the plan's field of the same name,
with the unit of its kind added (`size` becomes `size_bytes`), unless `InPlan` or `NOT_IN_PLAN` says otherwise. The
models are strict and know nothing of YAML, marks, `extends` or `${}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, StrictBool, Tag

from . import field_checks
from . import fields as f
from .model_base import Item, ItemName, Part, When
from .model_parts import (
    Basic,
    Bucket,
    HeaderSecret,
    Hook,
    ItemLimits,
    Lifetime,
    Limits,
    Markers,
    Ready,
    Require,
    Secret,
    StartFailureHook,
    Substitute,
)
from .model_python import Python
from .notes import AS_WRITTEN, NOT_IN_PLAN, Example, InPlan, part_in


class AptPackages(Part):
    """Debian packages that are wanted where a condition holds."""

    packages: Annotated[f.AptPackages, Field(min_length=1)]
    """The packages."""
    when: When
    """Only where all of this holds."""


def _kind_of_apt(value: object) -> str:
    return "[packages]" if isinstance(value, dict) else "[package]"


AptEntry = Annotated[
    Annotated[f.AptPackage, Tag("[package]")] | Annotated[AptPackages, Tag("[packages]")],
    Discriminator(_kind_of_apt),
]


class Repo(Item):
    """A git checkout."""

    is_folder = True

    url: f.RepoUrl
    """Where to clone from."""
    name: ItemName = None
    """What profiles that extend this one call it, to replace or remove it; its path does as well."""
    mirrors: tuple[f.RepoUrl, ...] = ()
    """Other places of the same repository, tried in order when the URL does not answer."""
    path: f.FolderPath
    """Where the checkout stands."""
    ref: f.Ref | None = None
    """What is checked out; the default branch otherwise."""
    submodules: StrictBool = False
    """Also fetch the submodules."""
    install: Annotated[f.FilePath, Example("requirements.txt")] | None = None
    """A requirements file inside the checkout, which is installed; `if_present`: requirements.txt, where there is one."""


class Upload(Item):
    """A file or a folder of the machine that orders the run."""

    from_: Annotated[f.LocalPath, InPlan("from_"), Field(alias="from")]
    """What is sent: a file, or a folder with all that is in it. Relative to this profile's own folder."""
    name: ItemName = None
    """What profiles that extend this one call it, to replace or remove it; its path does as well."""
    path: f.ItemPath
    """Where it goes. With a `/` at the end it is a folder: what is in `from` goes there, or the one file under its own name."""
    include: Annotated[tuple[f.Filled, ...], Example('["*.safetensors"]')] = ()
    """Of a folder only files that match one of these: their whole path below `from`, or their name."""
    exclude: Annotated[tuple[f.Filled, ...], Example('["*.tmp", "cache/"]')] = ()
    """Of a folder no file that matches one of these; with a `/` at the end a pattern names folders."""
    when: When | None = None
    """Send it only where all of this holds."""


class Download(Item):
    """One file, or a whole repository of a model hub."""

    of_one_file: ClassVar[tuple[str, ...]] = ("mirrors", "substitute", "size", "sha256", "unpack")
    """Keys that mean nothing for a whole repository."""
    of_a_repository: ClassVar[tuple[str, ...]] = ("include", "exclude", "layout")
    """Keys that mean nothing for one file."""

    url: f.Url
    """Where it is: a URL, or a short form such as `hf://OWNER/REPO/FILE`; `hf://OWNER/REPO` is a whole repository, `s3://BUCKET/PREFIX/` all below a prefix."""
    name: ItemName = None
    """What profiles that extend this one call it, to replace or remove it; its path does as well."""
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
    limits: ItemLimits = ItemLimits()
    """What this file may take; what is left out is as in the profile's `limits`."""
    headers: Annotated[dict[f.HeaderName, HeaderSecret], Example("{X-Api-Key: {secret: API_KEY}}")] = {}
    """Headers for the https host of `url`, each with the value of a secret. No redirect takes them to another host."""
    basic: Basic | None = None
    """Name and password for the https host of `url`. No redirect takes them to another host."""
    unpack: Annotated[f.Unpack, Field(json_schema_extra={"default": False})] = "no"
    """Unpack it into the folder of `path`; `true` finds out by its content what it is. The archive is kept."""
    include: Annotated[tuple[f.Filled, ...], Example('["*.safetensors"]')] = ()
    """Of a whole repository or a prefix only files that match one of these."""
    exclude: Annotated[tuple[f.Filled, ...], Example('["*.bin"]')] = ()
    """Of a whole repository or a prefix no file that matches one of these."""
    layout: Literal["files", "hub"] = "files"
    """Of a repository of the model hub: `hub` is the layout of the hub's own cache, and `path` is the folder that `HF_HUB_CACHE` names."""


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
    """What must be there: one of `path`, `glob`, `imports` and `service`."""

    identity = "name"
    one_of = ("path", "glob", "imports", "service")
    only_with: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "min_count": ("glob",),
        "min_size": ("glob", "path"),
        "nodes": ("service",),
        "models": ("service",),
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
    service: Annotated[f.Filled, Example("comfyui")] | None = None
    """The name of a service that is a ComfyUI: once it is ready it is asked for `nodes` and `models`."""
    nodes: Annotated[tuple[f.Filled, ...], Example("[KSampler, VHS_VideoCombine]")] = ()
    """Classes that it must offer in `/object_info`."""
    models: Annotated[
        tuple[f.AnyPath, ...], Example("[ComfyUI/models/vae/ae.safetensors, loras/style.safetensors]")
    ] = ()
    """Models that it must list: by their path, or as its folder and name, wherever it looks for that folder."""


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
    """Started as soon as everything critical is there, or when everything is. The nodes of a ComfyUI that are critical or required are there before it starts."""
    secrets: tuple[f.SecretUse, ...] = ()
    """Secrets that it gets as environment variables. They are on no disk: after a reboot it waits for the next `provision up`."""
    public: f.PublicUrl | None = None
    """Where others reach it. It is asked from here when it is ready: `${host}` is the instance's address. The outcome says whether it answered; nothing else depends on it. Where ports are mapped, `--set` fills in a variable for the port."""
    log_failures: Annotated[tuple[f.LogPattern, ...], Example('["CUDA error", "no kernel image"]')] = ()
    """Regular expressions: it has failed when its log since its start has a line with one of them."""
    on_start_failure: StartFailureHook | None = None
    """Run once when its first start failed; then it is started a second time."""


class Job(Item):
    """A long program, such as a training: it begins when all else is there, one job after the other, and the verdict waits for its end."""

    identity = "name"

    name: Annotated[f.Filled, Example("train")]
    """What it is called in events and logs."""
    run: f.Argv
    """Program and arguments, one word each; `python` is the environment's."""
    directory: f.AnyPath = "."
    """Where it runs."""
    environment: f.Environment = {}
    """Variables added to its environment."""
    secrets: tuple[f.SecretUse, ...] = ()
    """Secrets that it gets as environment variables."""
    level: f.Level = "required"
    """What its failure means for the verdict, as of other items. `usable` waits for no job."""
    timeout: Annotated[f.Duration, Example("12h")] | None = None
    """After this it is ended, with all that it started. Left out, it may take as long as it likes: `limits.run` does not count any more once the first job has begun."""


class Output(Part):
    """Files that come home while the run goes on, when their writers have closed them; with `--outputs DIR`."""

    path: f.FolderPath
    """A folder, or one file, under the workspace."""
    to: f.HomeFolder = "outputs"
    """The folder below `--outputs DIR` that they go into."""
    include: Annotated[tuple[f.Filled, ...], Example('["*.png"]')] = ()
    """Only files that match one of these: their whole path below `path`, or their name."""
    exclude: Annotated[tuple[f.Filled, ...], Example('["*_temp_*"]')] = ()
    """No file that matches one of these; with a `/` at the end a pattern names folders."""


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
    buckets: Annotated[dict[f.BucketName, Bucket], NOT_IN_PLAN] = {}
    """Buckets of `s3://` and `gs://` addresses that need more than their name."""
    strict: StrictBool = False
    """Stop at the first critical failure, and start no service."""
    limits: Limits = Limits()
    """What the run and its downloads may take."""
    require: Require | None = None
    """What the instance itself must be; measured before anything large is begun."""
    apt: Annotated[tuple[AptEntry, ...], AfterValidator(field_checks.once)] = ()
    """Debian packages; `{packages: […], when: {…}}` for those that only some instances need."""
    python: Python | None = None
    """The virtual environment."""
    repos: tuple[Repo, ...] = ()
    """Git checkouts."""
    uploads: tuple[Upload, ...] = ()
    """Files of this machine to send."""
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
    jobs: tuple[Job, ...] = ()
    """Long programs, such as a training."""
    outputs: tuple[Output, ...] = ()
    """Files that come home."""
    outputs_keep: Annotated[f.Duration, Example("2h")] = 3600.0
    """How long results that are finished and not home hold back `on_failure` and `lifetime` when nobody fetches them."""
    on_failure: Hook | None = None
    """Run by the instance after `failed` or `timeout`, even if nobody is connected."""
    lifetime: Lifetime | None = None
    """What ends the instance, and when, even if nobody is connected."""
    markers: Annotated[Markers, NOT_IN_PLAN, AS_WRITTEN] = Markers()
    """Lines that end `provision collect`, when it watches somebody else's script."""


SECTIONS: dict[str, type[Item]] = {
    name: part
    for name, field in Document.model_fields.items()
    if (part := part_in(field.annotation)) is not None and issubclass(part, Item)
}
"""The lists of items, by their key."""
