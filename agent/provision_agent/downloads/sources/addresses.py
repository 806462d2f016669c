"""Which kind of source an address belongs to, and what that kind makes of it.

The module of a kind is found by its name in `SOURCE_KINDS`; its `KIND` answers.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from ...contract import source_kinds
from ...contract.failures import Failure
from ..http.request import Headers

if TYPE_CHECKING:
    from .http import WebServer


def kind_for(url: str) -> WebServer:
    """The kind of source that *url* belongs to.

    Raises:
        Failure: `not_found`, when it is written in no known form.
    """
    name = source_kinds.kind_of(url, os.environ)
    if name is None:
        raise _no_address(url)
    return _kind(name)


def kind_that_answered(url: str, headers: Headers) -> WebServer:
    """Whose language the answer with *headers* speaks: a mirror may speak another than *url* tells. Raises as `kind_for`."""
    speaker = source_kinds.speaker_of(headers.get)
    return _kind(speaker) if speaker else kind_for(url)


def address_of(url: str) -> str:
    """The http, https or file URL that serves what *url* means.

    Raises:
        Failure: `not_found`, when it is written in no known form, or names no file.
    """
    kind = kind_for(url)
    try:
        address = kind.address(url)
    except ValueError:
        address = None
    if address is None:
        raise _no_address(url)
    return address


def _kind(name: str) -> WebServer:
    kind: WebServer = importlib.import_module(f".{name}", __package__).KIND
    return kind


def _no_address(url: str) -> Failure:
    forms = ", ".join(form.example for form in source_kinds.forms().values())
    return Failure(
        "not_found", f"`{url.split('?')[0]}` is in no form that is known", case="form", about={"forms": forms}
    )
