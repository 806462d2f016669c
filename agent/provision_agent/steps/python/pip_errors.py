"""What pip and uv say when they fail, as a class of failure and advice."""

from __future__ import annotations

import re
import shlex
from typing import List, Optional, Sequence, Tuple

from ...contract.failures import Failure
from ...host import process

_NETWORK = re.compile(
    r"newconnectionerror|connection(reset|abort)?error|connection (refused|reset|broken|timed out)|read timed out|"
    r"connecttimeout|name resolution|name or service not known|max retries exceeded|remotedisconnected|incompleteread|"
    r"incomplete-download|error sending request|network is unreachable|dns error|operation timed out"
)
_CERTIFICATE = re.compile(
    r"certificate[ _]verify[ _]failed|invalid peer certificate|unknownissuer|self[- ]signed certificate|"
    r"problem confirming the ssl certificate|certificate[ _]?required|unable to get local issuer"
)
_PROXY = re.compile(
    r"proxyerror|tunnel error|proxy authentication|unsuccessful tunnel|cannot connect to proxy"
)
_NVCC = re.compile(
    r"cuda_home environment variable is not set|nvcc(\.exe)? (was |is )?not found|nvcc: not found|no such file or directory: '[^']*nvcc'|"
    r"detected cuda version .{0,40}mismatches the version that was used to compile pytorch"
)
_DAMAGED = re.compile(
    r"failed to unzip wheel|end of central directory|badzipfile|wheel '[^']*' located at .* is invalid|has an invalid wheel|"
    r"the wheel is invalid|is not a zip file|failed to (read|parse) (the )?metadata|metadata(\.json)? file .* not found|"
    r"has an invalid package format|metadata name `[^`]*` does not match|has (invalid|inconsistent) metadata|\.dist-info directory|checksum mismatch|bad crc"
)
_NOTHING = re.compile(r"not found in the package registry|not found in the provided package locations")
_CLASSES: Tuple[Tuple[str, str], ...] = (
    (r"no space left on device|disk quota exceeded", "disk_full"),
    (r"read-only file system", "read_only"),
    (r"do not match the hashes|hash mismatch", "checksum"),
    (r"\b40[13]\b.*(client error|forbidden|unauthorized|while getting)|http error 40[13]", "unauthorized"),
    (r"resolutionimpossible|conflicting dependencies", "conflict"),
    (r"no matching distribution|could not find a version|not found in the package registry", "not_found"),
    (
        r"there is no version of|no wheels with a matching|http error 404|404 (client error|not found)",
        "not_found",
    ),
    (r"no solution found", "conflict"),
    (r"\b5\d\d\b.*server error|http error 5\d\d|http status server error", "upstream_down"),
)
"""Tried in order on the lines that begin an error, then on all of the output."""
_CASES = {
    "network": "installer_network",
    "not_found": "installer_version",
    "conflict": "installer_conflict",
    "checksum": "installer_wheel",
    "disk_full": None,
    "tls": None,
}


def failure(argv: Sequence[str], status: int, output: List[str], *, timeout_s: float) -> Failure:
    """What it means that *argv* ended with *status* and *output*, with the exact command to repeat by hand.

    Args:
        timeout_s: What it was told to wait per connection, for the advice.
    """
    errors = [line for line in output if re.match(r"\s*(error|fatal|×|╰─▶|cause)", line, re.IGNORECASE)]
    class_ = _class_of(errors) or _class_of(output) or "command"
    has_network_trouble = any(_NETWORK.search(line) or _PROXY.search(line) for line in map(str.lower, output))
    if has_network_trouble and class_ in ("not_found", "command", "conflict"):
        class_ = "network"  # an index that could not be read looks like one without the package
    text = "\n".join(output).lower()
    if class_ in ("network", "command", "not_found", "conflict") and _CERTIFICATE.search(text):
        class_ = "tls"
    nvcc = next((line.strip() for line in output if _NVCC.search(line.lower())), None)
    if class_ in ("command", "not_found", "conflict") and nvcc is not None:
        message = f"it would have to be compiled for the GPU, and that cannot be done here: {nvcc}"
        return Failure("not_found", message, case="would_compile", tail=output[-process.TAIL_LINES :])
    case = _CASES.get(class_, "repeat")
    is_of_others = class_ == "conflict" and "depends on" in text
    if class_ in ("command", "conflict") and _DAMAGED.search(text) and not is_of_others:
        case = "installer_wheel"
    why = " | ".join((errors or output)[-3:]) or "it said nothing"
    command = " ".join(map(shlex.quote, argv))
    return Failure(
        class_,
        f"the installer ended with {status}: {why}",
        case=case,
        about={"command": command, "timeout": f"{timeout_s:.0f}s"},
        tail=output[-process.TAIL_LINES :],
    )


def is_of_the_way(failure: Failure) -> bool:
    """Is it about how an index is reached, which one installer may know better than the other?"""
    return failure.class_ in ("tls", "unauthorized") or (
        failure.class_ == "network" and _PROXY.search(failure.message.lower()) is not None
    )


def is_of_form(failure: Failure) -> bool:
    """Is it that nothing at all was found, as where an index has a form that one installer does not read?"""
    return failure.class_ == "not_found" and _NOTHING.search(failure.message.lower()) is not None


def _class_of(lines: List[str]) -> Optional[str]:
    text = "\n".join(lines).lower()
    return next((name for pattern, name in _CLASSES if re.search(pattern, text)), None)
