"""The environment that a profile asks for: `python`, its layers, and torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

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


class Compiled(Part):
    """A package with code for the GPU: a prebuilt wheel for this Python, torch, CUDA and card, or none."""

    of_plan = "compiled"

    name: Annotated[f.Package, Example("sageattention")]
    """The package, perhaps with versions."""
    wheels: Annotated[tuple[f.WheelTemplate, ...], Field(min_length=1)]
    """Addresses of wheels, tried in order. In braces stands what a wheel must fit, see below. A `#sha256=…` at the end is held."""
    build: Literal["never", "if_nvcc"] = "never"
    """`if_nvcc`: where none of them exists it is compiled, if the instance has nvcc of the very CUDA that torch was built with."""
    level: f.Level = "required"
    """`critical`: installed with its layer. `required` and `optional` ones are installed when the instance is usable."""


def _kind_of_entry(value: object) -> str:
    return "[compiled]" if isinstance(value, dict) else "[package]"


LayerEntry = Annotated[
    Annotated[f.LayerEntry, Tag("[package]")] | Annotated[Compiled, Tag("[compiled]")],
    Discriminator(_kind_of_entry),
]


def _layer(value: object) -> object:
    if not isinstance(value, (list, dict)):
        raise wrong_type("a list of packages, `torch: …` or `requirements: …`")
    return {"packages": value} if isinstance(value, list) else value


class Layer(Part):
    """One install step: a list of packages, torch, or a requirements file."""

    one_of = ("packages", "torch", "requirements")

    name: ItemName = None
    """What profiles that extend this one call the layer, to replace or remove it."""
    packages: Annotated[tuple[LayerEntry, ...], Example('["numpy<2"]')] = ()
    """The packages. Options of the installer may stand before the first one: `[--no-deps, xformers]`. Those with code for the GPU may be mappings: see [compiled packages](#of-compiled)."""
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
    """`auto` takes an environment of the image whose torch already runs on this GPU and that can be added to, else `venv` in the workspace; the run says why. A path is created if it is not there."""
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
    wheels: Annotated[f.KeptPath | None, Example("/volume/wheels")] = None
    """A folder in which fetched wheels stay for the next run, on a network volume say; else they go with the run."""
    indexes: tuple[PackageIndex, ...] = ()
    """Indexes that are asked besides those that the instance has configured; all count alike."""
