"""Objects of S3 stores: ``s3://BUCKET/KEY``, and ``s3://BUCKET/PREFIX/`` for all below it.

The keys are on the user's machine, which lists and signs. Here a signed address is used until it stops working.
"""

from __future__ import annotations

from typing import Optional

from ...contract.bucket_errors import failure_of, read_refusal
from ...contract.buckets import object_of
from ...contract.failures import Failure
from ...contract.source_kinds import means_many_files
from ..http import errors
from .http import Fetch, WebServer
from .listing import Listing
from .signed import SIGNED, unsigned


class S3(WebServer):
    """``s3://…``, by the address that was signed for it."""

    def address(self, url: str) -> Optional[str]:
        if means_many_files(url) or object_of(url) is None:
            return None
        address = SIGNED.address_of(url)
        if address is None:
            raise unsigned(url)
        return address

    def name(self, address: str, disposition: Optional[str]) -> str:
        return super().name(address, None if "X-Amz-Signature=" in address else disposition)

    def sha256_listed(
        self, url: str, name: Optional[str], size_bytes: Optional[int], fetch: Fetch
    ) -> Optional[str]:
        source = SIGNED.find(url)
        return None if source is None else source.sha256

    def listing(self, url: str) -> Optional[Listing]:
        found = object_of(url)
        if found is None or not means_many_files(url):
            return None
        return Listing(title=url, url=url, folder=found.key, at_hand=lambda: SIGNED.files_of(url))

    def refusal(self, refused: errors.Refused, url: str, fetch: Fetch) -> Failure:
        said = read_refusal(refused.status, refused.body, refused.headers.get("x-amz-bucket-region"))
        if said.is_too_old and SIGNED.spoil(url, refused.url):
            return errors.Expired(f"{refused.host} answered {refused.status}: the signed address has expired")
        found = object_of(url)
        bucket = found.bucket if found is not None else refused.host
        is_signed = "X-Amz-Signature=" in refused.url
        return failure_of(said, url=url, bucket=bucket, host=refused.host, is_signed=is_signed)


KIND = S3()
