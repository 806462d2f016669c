"""The mappings of a profile that are no items: limits, secrets, conditions, hooks, markers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool

from . import fields as f
from .model_base import Part
from .notes import Example

SUCCESS_MARKERS = ("✅ PROVISIONING COMPLETE", "✅ ComfyUI setup complete")
FAILURE_MARKERS = ("FATAL:", "CRITICAL ERROR:")


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
    cache: f.CachePattern | None = None
    """A cache of your own site, which is asked first for every file whose sha256 is known. It gets no secret; what it has not got, or has wrong, comes from the source."""
    hosts: dict[f.HostName, HostLimits] = {}
    """Source hosts that must not be asked for much at once, with all names below them. A rule also holds where links of its host lead to. civitai.com, dropbox.com and drive.google.com are built in; a rule here changes what it names of theirs."""


class Secret(Part):
    """A value from your environment. It is kept in memory only and cannot be used in `${}`."""

    hosts: tuple[f.TokenHost, ...] = ()
    """The https hosts that get it, as `Authorization: Bearer`; exactly these, no hosts below them."""
    aliases: Annotated[tuple[f.SecretName, ...], Example("[HUGGINGFACE_HUB_TOKEN]")] = ()
    """Other environment variables that may hold it, in order of preference."""


class HeaderSecret(Part):
    """A header's value."""

    secret: f.SecretUse
    """The secret whose value it is."""


class Basic(Part):
    """A login by name and password."""

    user: f.UserName
    """The name."""
    secret: f.SecretUse
    """The secret that is the password."""


class Bucket(Part):
    """Where a bucket is and what opens it. Its keys stay on the machine where you type: addresses are signed there."""

    endpoint: f.Endpoint | None = None
    """The store's address where it is not Amazon's (for `gs://` not Google's)."""
    region: f.Region | None = None
    """The bucket's region. Left out, it is found out."""
    style: Annotated[Literal["path", "virtual"], Example("path")] | None = None
    """`path` writes `ENDPOINT/BUCKET/KEY`, `virtual` `BUCKET.ENDPOINT/KEY`. Left out: `virtual` at Amazon, `path` elsewhere."""
    access_key: Annotated[f.SecretUse, Example("R2_ACCESS_KEY")] | None = None
    """The secret that is the access key. Without keys, Amazon's buckets are opened with your own AWS configuration (environment, `~/.aws`, profiles, SSO), and as public ones where you have none; all others as public ones."""
    secret_key: Annotated[f.SecretUse, Example("R2_SECRET_KEY")] | None = None
    """The secret that is the secret key."""
    session_token: Annotated[f.SecretUse, Example("AWS_SESSION_TOKEN")] | None = None
    """The secret that is the session token, for keys that are lent for a while."""


class Substitute(Part):
    """Another file that stands in when every source of the wanted one says no; the outcome names it."""

    url: f.Url
    """Where the other file is."""
    path: Annotated[f.ItemPath, Example("ComfyUI/models/checkpoints/small.safetensors")]
    """Its own path, not that of the wanted file."""


class Ready(Part):
    """When a service counts as up."""

    url: f.WebUrl
    """Asked on the instance itself."""
    within: f.Duration = 600.0
    """How long its log may be silent before it is given up; as long as that grows, it has until `limits.run`."""
    successes: f.Count = 2
    """Good answers in a row."""
    json_: Annotated[dict[str, object], Field(alias="json"), Example("{devices: not_empty}")] = {}
    """Fields that the JSON answer must have: the exact value, or `not_empty` for any that is not empty."""


class Hook(Part):
    """A command that the instance runs after `failed` or `timeout`, even if nobody listens."""

    is_merged = False

    run: Annotated[f.Argv, Example('[vastai, destroy, instance, "${run_id}"]')]
    """Program and arguments, one word each; `${run_id}` says which run it was."""
    secrets: tuple[f.SecretUse, ...] = ()
    """Secrets that it gets as environment variables."""
    timeout: f.Duration = 300.0
    """After this it is ended."""


class LifetimeHook(Part):
    """A command that ends the instance. It is run again, under the same key in `PROVISION_KEY`, until it has succeeded."""

    is_merged = False

    run: Annotated[f.Argv, Example('[sh, -c, "runpodctl remove pod $RUNPOD_POD_ID"]')]
    """Program and arguments, one word each; `${run_id}` says which run it was."""
    secrets: tuple[f.SecretUse, ...] = ()
    """Secrets that it gets as environment variables. They are in memory only: after a reboot of the instance it is run without them."""
    timeout: f.Duration = 300.0
    """After this it is ended, and tried again."""


class Lifetime(Part):
    """When the instance is ended, by itself: give `idle`, `max` or both."""

    is_merged = False
    when_empty = "give `then`, and `idle`, `max` or both"

    idle: Annotated[f.Duration, Example("20m")] | None = None
    """After so long without a run, a job, a prompt in a ComfyUI's queue, a copy, a login or work on the GPU."""
    max: Annotated[f.Duration, Example("8h")] | None = None
    """So long after the run has begun, whatever is going on; 10 minutes before, whoever is logged in is told. `provision keep` extends it."""
    then: LifetimeHook
    """What is run then."""


class StartFailureHook(Part):
    """A command that is run once, when the first start of a service failed, before it is started a second time."""

    is_merged = False

    run: Annotated[f.Argv, Example("[python, repair.py]")]
    """Program and arguments, one word each; `python` is the environment's. It runs in the service's folder."""
    secrets: tuple[f.SecretUse, ...] = ()
    """Secrets that it gets as environment variables."""
    timeout: f.Duration = 300.0
    """After this it is ended."""


class Require(Part):
    """What the instance itself must be. It is measured first: one that falls short costs no large byte."""

    when_empty = "give a requirement, such as `line: 200Mbit`, or remove `require`"

    gpu_name: f.GpuName = ()
    """What the driver calls the cards: as in `when`."""
    gpu_memory: f.LeastMemory | None = None
    """Memory of the largest GPU, as it is sold."""
    gpu_count: f.LeastCount = ()
    """How many GPUs there are."""
    gpu_capability: f.LeastCapability = ()
    """Compute capability of the GPU; of several the lowest."""
    line: f.LineRate | None = None
    """What the line brings. It is measured for a few seconds against a source of the profile's own downloads, and before another instance is asked for against others of them, too: what one slow source does is no fault of the instance."""
    line_from: Annotated[f.WebUrl, Example("https://example.org/100MB.bin")] | None = None
    """A file to measure the line against in place of the downloads: a large one, on a server that is fast enough."""
    disk_write: Annotated[f.Rate, Example("500MB/s")] | None = None
    """What the disk of the workspace takes, past the memory of the machine."""
    gpu_free: StrictBool = False
    """There is a GPU, and nobody else's program has more than a small part of its memory. Services of an earlier run of the same workspace may have it."""
    gpu_errors: Annotated[Literal["any", "none"], Example("none")] = "any"
    """`none`: neither nvidia-smi nor the log of the kernel (where it may be read) tells of a card that is broken: memory errors that could not be corrected, memory that is to be taken out of use, a card that fell off the bus."""
    memory: Annotated[f.Size, Example("32GiB")] | None = None
    """Memory of the machine, or of its container's share, as it is sold: the kernel keeps a part of it."""
    within: Annotated[f.Duration, Example("90s")] = 60.0
    """All of it is measured within this."""


class Markers(Part):
    """How the log of somebody else's script says that it ended, for `provision collect`."""

    success: Annotated[tuple[f.Filled, ...], Example('["ALL DONE"]')] = SUCCESS_MARKERS
    """A line with one of these means that all went well."""
    failure: Annotated[tuple[f.Filled, ...], Example('["Traceback"]')] = FAILURE_MARKERS
    """A line with one of these means that it failed."""
