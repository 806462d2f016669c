"""What a store's refusal means: its own codes as classes and cases. Both halves read them here. Pure."""

from __future__ import annotations

import re
from typing import Dict, NamedTuple, Optional

from .failures import Failure

MOST_BYTES = 4096
"""Read of a refusal."""
_TAG = re.compile(r"<(Code|Message|Region|BucketName|Endpoint)>([^<]{1,500})</")
_TOO_OLD = ("ExpiredToken", "TokenRefreshRequired", "ExpiredRequest")
_SKEWED = ("RequestTimeTooSkewed", "RequestNotReady")
_OF_THE_REGION = (
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
    "Redirect",
)
_CODES = {
    "NoSuchKey": ("not_found", "bucket_key"),
    "NoSuchBucket": ("not_found", "bucket_name"),
    "InvalidBucketName": ("not_found", "bucket_name"),
    "InvalidAccessKeyId": ("unauthorized", "bucket_access_key"),
    "SignatureDoesNotMatch": ("unauthorized", "bucket_secret_key"),
    "InvalidToken": ("unauthorized", "bucket_token"),
    "ExpiredToken": ("unauthorized", "bucket_token"),
    "TokenRefreshRequired": ("unauthorized", "bucket_token"),
    "RequestTimeTooSkewed": ("unauthorized", "bucket_clock"),
    "InvalidObjectState": ("not_found", "bucket_archived"),
}
_LATER = ("SlowDown", "RequestLimitExceeded", "TooManyRequests")


class Said(NamedTuple):
    """What a store says when it refuses."""

    status: int
    code: str = ""
    message: str = ""
    region: str = ""
    """Where it says that the bucket is."""

    @property
    def is_of_the_region(self) -> bool:
        """The bucket is in another region than the one that was asked."""
        return self.status in (301, 307) or (
            self.code in _OF_THE_REGION and bool(self.region or "region" in self.message.lower())
        )

    @property
    def is_skewed(self) -> bool:
        """It was signed by a clock that is wrong."""
        return self.code in _SKEWED or "not valid yet" in self.message.lower()

    @property
    def is_too_old(self) -> bool:
        """What it was signed with, or the signature, was good and has expired: a fresh one may do."""
        return self.code in _TOO_OLD or "request has expired" in self.message.lower()


def read_refusal(status: int, body: bytes, region: Optional[str] = None) -> Said:
    """What a refusal with this *body* says; a part of it is enough.

    Args:
        region: What the header ``x-amz-bucket-region`` says.
    """
    text = body[:MOST_BYTES].decode("utf-8", "replace")
    told = {name: _harmless(value) for name, value in _TAG.findall(text)}
    where = region or told.get("Region") or _expected(told.get("Message", ""))
    code = told.get("Code", "")
    is_name = re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) is not None
    fits = re.fullmatch(r"[a-z0-9-]{1,64}", where or "") is not None
    return Said(
        status, code if is_name else "", told.get("Message", "")[:200], where if where and fits else ""
    )


def _expected(message: str) -> str:
    found = re.search(r"expecting (?:&apos;|&quot;|['\"])([a-z0-9-]+)", message)
    return found[1] if found else ""


def _harmless(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def failure_of(said: Said, *, url: str, bucket: str, host: str, is_signed: bool) -> Failure:
    """The failure that a refusal means.

    Args:
        url: As the plan has it.
        host: Who refuses.
        is_signed: A signature went along.
    """
    what = f"{host} answered {said.status}{f' {said.code}' if said.code else ''} for {url}"
    message = f"{what}: {said.message}" if said.message else what
    about: Dict[str, object] = {"bucket": bucket, "url": url}
    if said.is_of_the_region:
        case = "bucket_region" if said.region else "bucket_region_unknown"
        return Failure("unauthorized", message, case=case, about={**about, "region": said.region})
    if said.is_skewed:
        return Failure("unauthorized", message, case="bucket_clock", about=about)
    if said.code in _CODES:
        class_, case = _CODES[said.code]
        return Failure(class_, message, case=case, about=about)
    if said.code in _LATER or said.status == 429:
        return Failure("rate_limited", message, host=host, wait_s=10.0)
    if said.status in (404, 410):
        return Failure("not_found", message, case="bucket_key", about=about)
    if said.status >= 500 or said.status in (408, 425):
        return Failure("upstream_down", message)
    case = "bucket_denied" if is_signed else "bucket_not_public"
    return Failure("unauthorized", message, case=case, about=about)
