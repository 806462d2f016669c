"""Who does a token of the model hub belong to, and can it read? Asked on the user's machine, never on an instance.

The token goes to the hub's own address: huggingface.co, or what ``HF_ENDPOINT`` names, which the hub's tools read too.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from ..contract.failures import Failure
from ..contract.findings import WhoamiAnswer, WhoamiRequest
from ..contract.parsing import ParseError, parse, read_object
from ..contract.source_kinds import SOURCE_KINDS
from ..downloads.http import errors
from ..downloads.http.request import Response, request
from ..run import answering

WITHIN_S = 15.0
CONNECT_S = 8.0
MAX_BYTES = 1 << 20
READING = ("read", "write", "admin")
"""Roles of tokens that read everything which their account reads."""


@dataclass(frozen=True)
class _Scope:
    permissions: Tuple[str, ...] = ()


@dataclass(frozen=True)
class _FineGrained:
    canReadGatedRepos: bool = False  # noqa: N815
    scoped: Tuple[_Scope, ...] = ()


@dataclass(frozen=True)
class _AccessToken:
    displayName: Optional[str] = None  # noqa: N815
    role: Optional[str] = None
    fineGrained: Optional[_FineGrained] = None  # noqa: N815


@dataclass(frozen=True)
class _Auth:
    type: Optional[str] = None
    accessToken: Optional[_AccessToken] = None  # noqa: N815


@dataclass(frozen=True)
class _Whoami:
    name: str
    type: Optional[str] = None
    auth: Optional[_Auth] = None


def whoami_main(argv: List[str]) -> int:
    """``whoami``: whom the token of a `WhoamiRequest` belongs to."""
    return answering.answer(WhoamiRequest, lambda asked: whoami(asked.token, os.environ))


def whoami(token: str, environment: Mapping[str, str]) -> WhoamiAnswer:
    """Ask the hub whom *token* belongs to; the hub is the one that *environment* names."""
    endpoint = SOURCE_KINDS["hugging_face"].endpoint(environment)
    host = urlsplit(endpoint).hostname or endpoint
    if not _is_private(endpoint):
        return WhoamiAnswer(
            "unreachable", host, f"`HF_ENDPOINT` names {host} without https: no token goes there"
        )
    try:
        response = request(
            f"{endpoint}/api/whoami-v2",
            {"Authorization": f"Bearer {token}"},
            connect_s=CONNECT_S,
            answer_s=WITHIN_S,
        )
    except Failure as failure:
        return WhoamiAnswer("unreachable", host, failure.message)
    try:
        return _told(response, host, token)
    except (Failure, OSError) as error:
        return WhoamiAnswer("unreachable", host, f"{host}: {error}")
    finally:
        response.close()


def _told(response: Response, host: str, token: str) -> WhoamiAnswer:
    body = response.read(MAX_BYTES, WITHIN_S)
    said = errors.quoted(body, [token])
    if response.status in (401, 403):
        return WhoamiAnswer(
            "invalid", host, f"{host} answered {response.status}{f': {said}' if said else ''}"
        )
    if response.status != 200:
        return WhoamiAnswer(
            "unreachable", host, f"{host} answered {response.status}, which says nothing of the token"
        )
    try:
        owner = parse(_Whoami, read_object(body, max_bytes=MAX_BYTES), "whoami")
    except ParseError as error:
        return WhoamiAnswer("unreachable", host, f"what {host} answered cannot be understood: {error}")
    access = (owner.auth.accessToken if owner.auth is not None else None) or _AccessToken()
    kind = access.role or (owner.auth.type if owner.auth is not None else None) or ""
    state = "valid" if _reads(owner, access) else "other_kind"
    return WhoamiAnswer(state, host, owner=owner.name, kind=kind, name=access.displayName or "")


def _reads(owner: _Whoami, access: _AccessToken) -> bool:
    """Whether the token reads gated or private repositories of its owner."""
    if access.role is None:
        return owner.auth is None or owner.auth.type == "access_token"  # a hub that tells no roles
    if access.role in READING:
        return True
    fine = access.fineGrained or _FineGrained()
    scoped = [permission for scope in fine.scoped for permission in scope.permissions]
    return fine.canReadGatedRepos or any(each in ("repo.content.read", "repo.write") for each in scoped)


def _is_private(endpoint: str) -> bool:
    """Nobody reads along: https, or this very machine."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https":
        return True
    try:
        return parts.scheme == "http" and ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.scheme == "http" and parts.hostname == "localhost"
