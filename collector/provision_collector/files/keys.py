"""Keys of S3 stores, and what is signed with them, by botocore. Without it public buckets can still be read.

A key is a secret that a profile names, or comes from this machine's own AWS configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..distribution import install_hint
from ..errors import UsageError


class _Frozen(Protocol):
    access_key: str
    secret_key: str
    token: str | None


@dataclass(frozen=True)
class Keys:
    """An access key with its secret key, and the session token that they need if they are lent for a while."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)

    def headers(self, method: str, url: str, headers: Mapping[str, str], region: str) -> dict[str, str]:
        """*headers* with those that sign a request.

        Raises:
            UsageError: there is no botocore.
        """
        request = _signed("S3SigV4Auth", self, region, method, url, headers)
        return {str(name): str(value) for name, value in request.headers.items()}

    def address(self, url: str, region: str, *, lives_s: int) -> str:
        """*url* with a signature that opens it for *lives_s*. Raises as `headers`."""
        request = _signed("S3SigV4QueryAuth", self, region, "GET", url, {}, expires=lives_s)
        return str(request.url)


@dataclass(frozen=True)
class Configured:
    """What this machine's AWS configuration says: environment, `~/.aws`, profiles, SSO, instance roles."""

    keys: Keys | None = None
    region: str = ""
    endpoint: str = ""


def needs_botocore() -> None:
    """Raises UsageError when it is not installed, with what to type."""
    try:
        import botocore  # noqa: F401
    except ImportError:
        raise UsageError(
            "`s3://` addresses are signed here, and that needs `botocore`", hint=install_hint("s3")
        ) from None


def configured() -> Configured:
    """Read this machine's AWS configuration, as its own tools do. It may ask SSO or a metadata service.

    Raises:
        UsageError: there is no botocore, or the configuration is broken.
    """
    needs_botocore()
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        session = Session()
        found = session.get_credentials()
        frozen: _Frozen | None = None if found is None else found.get_frozen_credentials()
        scoped = session.get_scoped_config()
        region = str(session.get_config_variable("region") or "")
        endpoint = _endpoint(scoped)
    except BotoCoreError as error:
        raise UsageError(
            f"this machine's AWS configuration cannot be used: {error}",
            hint="`aws sts get-caller-identity` says more; or name keys under `buckets:` of the profile",
        ) from None
    keys = None if frozen is None else Keys(frozen.access_key, frozen.secret_key, frozen.token or None)
    return Configured(keys, region, endpoint)


def _endpoint(scoped: Mapping[str, object]) -> str:
    import os

    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            return os.environ[name].rstrip("/")
    return str(scoped.get("endpoint_url") or "").rstrip("/")


def _signed(
    kind: str, keys: Keys, region: str, method: str, url: str, headers: Mapping[str, str], **options: int
) -> _Request:
    needs_botocore()
    from botocore import auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request: _Request = AWSRequest(method=method, url=url, headers=dict(headers))
    credentials = Credentials(keys.access_key, keys.secret_key, keys.token)
    getattr(auth, kind)(credentials, "s3", region, **options).add_auth(request)
    return request


class _Request(Protocol):
    url: str
    headers: Mapping[str, str]
