"""Which builds of torch suit a driver and a card. Pure: facts in, candidates and reasons out."""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional, Sequence, Tuple

from ...contract.failures import Failure
from ...contract.findings import Facts
from ...contract.plan import Python, Torch

BLACKWELL_NEEDS = (12, 8)
"""Cards of compute capability 10 and above run on no older driver."""

Numbers = Tuple[int, ...]


class Build(NamedTuple):
    """A family of wheels: its tag, the CUDA in it, the cards that it has code for, the torch versions that have it."""

    tag: str
    cuda: Numbers
    lowest_card: Numbers
    highest_card_major: int
    first: Numbers
    last: Optional[Numbers]


BUILDS = (
    Build("cu132", (13, 2), (7, 5), 12, (2, 12), None),
    Build("cu130", (13, 0), (7, 5), 12, (2, 9), None),
    Build("cu129", (12, 9), (7, 5), 12, (2, 12), None),
    Build("cu129", (12, 9), (7, 5), 12, (2, 8), (2, 8)),
    Build("cu128", (12, 8), (7, 5), 12, (2, 7), (2, 11)),
    Build("cu126", (12, 6), (5, 0), 9, (2, 6), None),
    Build("cu124", (12, 4), (5, 0), 9, (2, 4), (2, 6)),
    Build("cu121", (12, 1), (5, 0), 9, (2, 1), (2, 5)),
    Build("cu118", (11, 8), (5, 0), 9, (2, 0), (2, 7)),
)
"""Newest first, after the release matrix of torch; a build that does not exist is passed over when its index says so.

Source: https://github.com/pytorch/pytorch/blob/main/RELEASE.md and the architecture lists of its wheel builds.
"""


class Candidate(NamedTuple):
    """One version (None: the newest) of one build, and why it suits."""

    version: Optional[str]
    tag: str
    why: str
    is_kept: bool = False
    """It is installed, with `version` as it says itself: only what goes with it is wanting."""

    @property
    def title(self) -> str:
        """As people write it: ``torch 2.9.1+cu128``."""
        return f"torch {self.version}" if self.is_kept else f"torch {self.version or 'newest'}+{self.tag}"


def torch_of(python: Python) -> Optional[Torch]:
    """Which torch the first layer that has one asks for; None: no layer does."""
    return next((layer.torch for layer in python.layers if layer.torch is not None), None)


def candidates(torch: Torch, facts: Facts) -> List[Candidate]:
    """What may be installed here, best first.

    Builds that the driver covers for certain come before those that need NVIDIA's compatibility within one major
    version of CUDA.

    Raises:
        Failure: `gpu` when no wanted version has a build for this driver and card.
    """
    versions: Sequence[Optional[str]] = torch.versions or (None,)
    if torch.accelerator != "auto":
        return [Candidate(version, torch.accelerator, "the profile says so") for version in versions]
    if not facts.gpus:
        return [Candidate(version, "cpu", "this instance has no GPU") for version in versions]
    cards = sorted({_numbers(gpu.compute_capability or "") for gpu in facts.gpus} - {()})
    return _for_cards(versions, cards, _numbers(facts.cuda) if facts.cuda else None)


def _for_cards(
    versions: Sequence[Optional[str]], cards: Sequence[Numbers], driver: Optional[Numbers]
) -> List[Candidate]:
    certain: List[Candidate] = []
    likely: List[Candidate] = []
    reasons: List[str] = []
    for version in versions:
        nearest = len(likely)
        for build in _builds_of(version):
            problem = _card_problem(build, cards, driver)
            why = _why(build, cards, driver)
            if problem is None and (driver is None or build.cuda <= driver):
                certain.append(Candidate(version, build.tag, why))
            elif problem is None and driver is not None and build.cuda[0] == driver[0]:
                why += f"; it relies on CUDA's compatibility within {driver[0]}.x"
                likely.insert(nearest, Candidate(version, build.tag, why))  # the nearest to the driver first
            else:
                needs = f"needs a driver for CUDA {_text(build.cuda)}, this one ends at {_text(driver or ())}"
                reasons.append(f"{version or 'torch'}+{build.tag} {problem or needs}")
    if not certain and not likely:
        wanted = ", ".join(version or "newest" for version in versions)
        known = "; ".join(reasons) or "none is known for that version"
        raise Failure("gpu", f"no build of torch {wanted} suits this instance: {known}")
    return certain + likely


def _builds_of(version: Optional[str]) -> List[Build]:
    if version is None:
        return [build for build in BUILDS if build.last is None]
    release, _, tag = version.partition("+")
    number = _numbers(release)[:2]
    return [
        build
        for build in BUILDS
        if build.first <= number and (build.last is None or number <= build.last) and tag in ("", build.tag)
    ]


def _card_problem(build: Build, cards: Sequence[Numbers], driver: Optional[Numbers]) -> Optional[str]:
    for card in cards:
        if card < build.lowest_card or card[0] > build.highest_card_major:
            return f"has no code for {_sm(card)}"
        if card[0] >= 10 and driver is not None and driver < BLACKWELL_NEEDS:
            needs = f"{_sm(card)} needs a driver for CUDA {_text(BLACKWELL_NEEDS)}"
            return f"cannot run: {needs}, this one ends at {_text(driver)}"
    return None


def _why(build: Build, cards: Sequence[Numbers], driver: Optional[Numbers]) -> str:
    known = f"runs CUDA up to {_text(driver)}" if driver else "does not say what CUDA it runs"
    if not cards:
        return f"the driver {known}, and does not say what the card is"
    return f"the driver {known}, the card is {', '.join(map(_sm, cards))}, and {build.tag} has code for it"


def _sm(card: Numbers) -> str:
    return f"sm_{''.join(map(str, card))}"


def _text(numbers: Numbers) -> str:
    return ".".join(map(str, numbers))


def release(version: str) -> Numbers:
    """``2.9.1+cu128`` as ``(2, 9, 1)``, to be compared."""
    return _numbers(version.partition("+")[0])


def _numbers(text: str) -> Numbers:
    """``12.8`` as ``(12, 8)``."""
    return tuple(int(part) for part in re.findall(r"\d+", text))
