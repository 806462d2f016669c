"""Packages with code for the GPU: a prebuilt wheel for this Python, torch, CUDA and card, or none at all.

Which wheel it is follows from the templates of the plan and from what a wheel must fit; nothing is compiled without an
nvcc of the very CUDA that torch was built with. Asks addresses; installs nothing.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ...contract.failures import Failure
from ...contract.findings import Facts, IndexTold, PackageTold
from ...contract.parsing import parse
from ...contract.plan import Plan, Python
from ...contract.plan_packages import CompiledPackage, wheel_address
from ...contract.pylock import LockedFile
from ...contract.redaction import public_url
from ...contract.steps import LEVELS
from ...downloads import Sources
from ...host import process
from ...host.probe import normalised
from ...run.context import Context
from ...run.interpreters import numbers, path_meant, version_meant
from . import builds
from .requirements import names_of
from .tags import Target, name_of

ASK_S = 20.0
NVCC_S = 10.0
_VERSION_FILE_CHARS = 64 << 10
BUILT_WITH_NVCC = frozenset(
    (
        "apex",
        "block-sparse-attn",
        "causal-conv1d",
        "causal-dilated-conv1d",
        "diff-gaussian-rasterization",
        "diso",
        "exllamav2",
        "flash-attn",
        "flash-attn-3",
        "fused-ssim",
        "mamba-ssm",
        "minkowskiengine",
        "natten",
        "nvdiffrast",
        "pytorch3d",
        "sageattention",
        "sageattn3",
        "simple-knn",
        "spas-sage-attn",
        "spargeattn",
        "torch-cluster",
        "torch-scatter",
        "torch-sparse",
        "torch-spline-conv",
        "torchsparse",
        "vox2seq",
        "xformers",
    )
)
"""Distributions whose source needs nvcc, and minutes to hours, normalised; some have wheels for some instances."""


class Build(NamedTuple):
    """What a wheel must fit. Empty: not known, or there is none."""

    python: str
    """Such as ``3.11.9``."""
    torch: str
    """Such as ``2.9.1``, without the build."""
    cuda: str
    """That torch was built with, such as ``12.8``."""
    capability: str
    """Of the lowest card, such as ``8.9``."""
    machine: str

    @property
    def title(self) -> str:
        """For people."""
        card = f"sm_{self.capability.replace('.', '')}" if self.capability else "no GPU"
        cuda = f"CUDA {self.cuda}" if self.cuda else "no CUDA"
        short = ".".join(self.python.split(".")[:2])
        return f"Python {short}, torch {self.torch or 'none'}, {cuda}, {card}, {self.machine}"

    def values(self) -> Dict[str, str]:
        """What each placeholder stands for; what is not known is left out."""
        python, torch, cuda = self.python.split("."), self.torch.split("."), self.cuda.split(".")
        given = {
            "python": f"cp{''.join(python[:2])}" if self.python else "",
            "python_version": ".".join(python[:2]),
            "torch": ".".join(torch[:2]),
            "torch_version": self.torch,
            "cuda": f"cu{''.join(cuda)}" if self.cuda else "",
            "cuda_version": self.cuda,
            "cuda_major": cuda[0],
            "capability": self.capability.replace(".", ""),
            "abi": "" if not self.torch else "TRUE" if numbers(self.torch)[:2] >= (2, 7) else "FALSE",
            "platform": f"linux_{self.machine}",
            "machine": self.machine,
        }
        return {name: value for name, value in given.items() if value}


class Choice(NamedTuple):
    """What was found for one package. `url` None: no wheel, and `why` says so."""

    url: Optional[str]
    why: str
    asked: Tuple[IndexTold, ...]
    unreached: Optional[Failure]
    """A place that could not be asked: there may be one after all."""


# -- what a wheel must fit


def build_at(venv: str, python_version: str, installed: Mapping[str, str], facts: Facts) -> Build:
    """What fits the environment *venv* with the torch that is in it."""
    version = installed.get("torch", "").partition("+")[0]
    return Build(python_version, version, cuda_at(venv, installed), _lowest(facts), os.uname().machine)


def build_to_be(python: Python, python_version: str, present: Optional[str], facts: Facts) -> Build:
    """What will fit when the layers are installed.

    Args:
        present: The version of the torch that is there, which counts where no layer brings one.
    """
    version, _, tag = (present or "").partition("+")
    for layer in python.layers:
        if layer.torch is not None:
            try:
                chosen = builds.candidates(layer.torch, facts)[0]
            except Failure:
                continue
            version, tag = (chosen.version or "").partition("+")[0], chosen.tag
    return Build(python_version, version, _cuda_of_tag(tag), _lowest(facts), os.uname().machine)


def build_of(python_version: str, torch: str, tag: str, facts: Facts) -> Build:
    """What fits a *torch* of the build *tag*, such as ``cu128``, on a machine of this kind with the cards of *facts*."""
    return Build(python_version, torch, _cuda_of_tag(tag), _lowest(facts), os.uname().machine)


def cuda_at(venv: str, installed: Mapping[str, str]) -> str:
    """The CUDA that the torch in *venv* was built with, as it says itself, or as its name and its company say."""
    tag = installed.get("torch", "").partition("+")[2]
    pattern = os.path.join(glob.escape(venv), "lib", "python3*", "site-packages", "torch", "version.py")
    for path in glob.glob(pattern):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(_VERSION_FILE_CHARS)
        except OSError:
            continue
        found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([0-9]+\.[0-9]+)", text, re.MULTILINE)
        if found is not None:
            return found[1]
    if tag:
        return _cuda_of_tag(tag)
    runtimes = [installed.get(f"nvidia-cuda-runtime{end}", "") for end in ("", "-cu13", "-cu12", "-cu11")]
    return next((".".join(each.split(".")[:2]) for each in runtimes if each), "")


def _cuda_of_tag(tag: str) -> str:
    """``cu128`` as ``12.8``."""
    found = re.fullmatch(r"cu([0-9]{2})([0-9])", tag)
    return f"{found[1]}.{found[2]}" if found is not None else ""


def _lowest(facts: Facts) -> str:
    """The capability of the lowest card: what runs on it runs on all that are here."""
    known = [gpu.compute_capability for gpu in facts.gpus if numbers(gpu.compute_capability or "")]
    return min((each for each in known if each is not None), key=numbers, default="")


# -- which wheel


def choose(package: CompiledPackage, build: Build, access: Sources, context: Context) -> Choice:
    """The first of the templates of *package* that has a wheel for *build*."""
    name, values, target = item_of(package), build.values(), Target.of(build.python)
    asked: List[IndexTold] = []
    reasons: List[str] = []
    unreached: Optional[Failure] = None
    for template in package.wheels:
        url, missing = wheel_address(template, values)
        shown = public_url(url)
        if missing:
            reasons.append(
                f"{public_url(template)} needs {' and '.join(f'{{{each}}}' for each in missing)}, which is not known here"
            )
            continue
        if not target.takes(name_of(url)):
            reasons.append(f"{name_of(url)} is for another Python or machine by its name")
            continue
        try:
            answer = access.ask(url.partition("#")[0], within_s=context.bounded(ASK_S))
        except Failure as failure:
            asked.append(IndexTold.refused(package.name, shown, failure))
            reasons.append(f"{shown}: {failure.message}")
            unreached = unreached or (failure if failure.retriable else None)
            continue
        told = IndexTold(
            title=package.name, url=shown, class_="ok", file=name_of(url), size_bytes=answer.size_bytes
        )
        return Choice(url, f"{name_of(url)} is for {build.title}", (*asked, told), None)
    why = f"there is no prebuilt wheel of {name} for {build.title}: {'; '.join(reasons) or 'the profile names none'}"
    return Choice(None, why, tuple(asked), unreached)


def of_instance(
    plan: Plan, found: Mapping[str, object], access: Sources, context: Context
) -> Tuple[PackageTold, ...]:
    """What a run of *plan* would do here about each compiled package.

    Args:
        found: The instance's facts.
    """
    wanted = of_plan(plan, LEVELS)
    if plan.python is None or not wanted:
        return ()
    facts = parse(Facts, found, "facts")
    path = path_meant(plan.python, context, facts)
    present = next((each.torch for each in facts.venvs if each.path == path), None)
    build = build_to_be(plan.python, version_meant(plan.python, context, facts), present, facts)
    return tuple(foretold(package, build, access, context) for package in wanted)


def foretold(package: CompiledPackage, build: Build, access: Sources, context: Context) -> PackageTold:
    """What a run would do about *package*: chosen is the wheel's name, or a build, or nothing."""
    found = choose(package, build, access, context)
    chosen = name_of(found.url) if found.url is not None else None
    why = found.why
    if chosen is None and may_build(package, build):
        chosen, why = f"{package.name}, built with nvcc {build.cuda}", f"{why}; nvcc {build.cuda} is here"
    return PackageTold(package.name, package.level, chosen, why, found.asked, found.unreached is None)


# -- compiling


def may_build(package: CompiledPackage, build: Build) -> bool:
    """May *package* be compiled here: the plan lets it, and nvcc is that of torch?"""
    return package.build == "if_nvcc" and bool(build.cuda) and nvcc_version() == build.cuda


def nvcc_version() -> str:
    """The release of the nvcc that a build would find, as torch looks for it, such as ``12.8``; empty: there is none."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    path = os.path.join(home, "bin", "nvcc") if home else shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not os.access(path, os.X_OK):
        return ""
    lines: List[str] = []
    try:
        process.run([path, "--version"], timeout_s=NVCC_S, on_line=lines.append)
    except (Failure, OSError):
        return ""
    told = re.search(r"release ([0-9]+\.[0-9]+)", " ".join(lines))
    return told[1] if told is not None else ""


def hopeless(name: str, cuda: str) -> Optional[str]:
    """Why a build of the distribution *name* cannot end well beside a torch with *cuda*; None where it may."""
    release = nvcc_version()
    if cuda and release == cuda:
        return None
    there = f"nvcc here is {release}" if release else "there is no nvcc here"
    wanted = f"torch was built with CUDA {cuda}" if cuda else "there is no torch with CUDA"
    return f"{name} would have to be compiled, and {there} while {wanted}"


def compiled_name(line: str) -> Optional[str]:
    """The distribution of *line*, if its source needs nvcc. Of a repository its last part is as good as a name."""
    text = line.split(" #")[0].strip()
    names = names_of([text])
    if not names and "://" in text:
        names = [normalised(urlsplit(text.partition("@")[0]).path.rpartition("/")[2].partition(".git")[0])]
    return next((name for name in names if name in BUILT_WITH_NVCC), None)


def is_source(line: str) -> bool:
    """Does *line* name a repository or an archive of source, which no index has as a wheel?"""
    return "://" in line and not urlsplit(line.split("@", 1)[-1].strip()).path.endswith(".whl")


def wheel_at(url: str) -> LockedFile:
    """The wheel that *url* leads to; what stands at its end, as ``#sha256=…``, is its hash."""
    address, _, fragment = url.partition("#")
    hashes = {"sha256": fragment.partition("=")[2].lower()} if fragment else {}
    return LockedFile(url=address, name=name_of(address), hashes=hashes)


def item_of(package: CompiledPackage) -> str:
    """What *package* is called in events."""
    return names_of([package.name])[0]


def of_plan(plan: Plan, levels: Sequence[str]) -> List[CompiledPackage]:
    """The compiled packages of all layers that are of one of *levels*; none where their step is left out."""
    layers = plan.python.layers if plan.python is not None and "python" in plan.steps else ()
    return [package for layer in layers for package in layer.compiled if package.level in levels]
