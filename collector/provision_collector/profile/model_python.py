"""The environment that a profile asks for: `python`, its layers, and torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from . import fields as f
from .field_checks import wrong_type
from .model_base import ItemName, Part, When
from .model_parts import Basic
from .notes import Example, InPlan


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
    index: Annotated[f.IndexPattern, Example("https://mirror.example.org/whl/{accelerator}")] | None = None
    """Asked in place of torch's own index. `{accelerator}` in it stands for the build, such as `cu128`."""
    find_links: Annotated[tuple[f.WheelPlace, ...], Example("[https://example.org/wheels/]")] = ()
    """Pages or folders of wheels that are looked at besides."""


def _layer(value: object) -> object:
    if not isinstance(value, (list, dict)):
        raise wrong_type("a list of packages, `torch: …` or `requirements: …`")
    return {"packages": value} if isinstance(value, list) else value


class Layer(Part):
    """One install step: a list of packages, torch, or a requirements file."""

    one_of = ("packages", "torch", "requirements")

    name: ItemName = None
    """What profiles that extend this one call the layer, to replace or remove it."""
    packages: tuple[f.LayerEntry, ...] = ()
    """The packages. Options of the installer may stand before the first one: `[--no-deps, xformers]`."""
    torch: Torch | None = None
    """PyTorch, in the build that driver and card want."""
    requirements: Annotated[f.FilePath, Example("ComfyUI/requirements.txt")] | None = None
    """A requirements file on the instance."""
    when: When | None = None
    """Only where all of this holds."""


class PackageIndex(Part):
    """An index of packages."""

    url: Annotated[f.WebUrl, Example("https://pypi.example.org/simple")]
    """Its address, as pip's `--index-url` takes it."""
    basic: Basic | None = None
    """A login: it goes to this https host and nowhere else."""


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
    indexes: tuple[PackageIndex, ...] = ()
    """Indexes that are asked besides those that the instance has configured; all count alike."""
    wheels: Annotated[f.AnyPath, Example("/network-volume/wheels")] | None = None
    """Where fetched wheels are kept for the next run or the next instance, such as a folder on a network volume. Without it they are removed when they are installed."""
