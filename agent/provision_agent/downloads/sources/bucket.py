"""Objects of Google Cloud Storage: ``gs://BUCKET/KEY``. Public ones are asked for as they are; what the user's machine
signed or listed goes by the store's S3 face.

`STORAGE_EMULATOR_HOST` names another server with the same interface, as it does for Google's own clients.
"""

from __future__ import annotations

import os
import re
from typing import Optional
from urllib.parse import quote, urlsplit

from ...contract.failures import Failure
from ...contract.source_kinds import SOURCE_KINDS
from ..http import errors
from .http import Fetch
from .s3 import S3
from .signed import SIGNED


class Bucket(S3):
    """``gs://…``, and links of storage.googleapis.com as they are."""

    def address(self, url: str) -> Optional[str]:
        found = re.fullmatch(r"gs://([^/?#]+)/(.*[^/])", url)
        if found is None:
            return None if url.startswith("gs:") or not urlsplit(url).hostname else url
        signed = SIGNED.address_of(url)
        if signed is not None:
            return signed
        return f"{SOURCE_KINDS['bucket'].endpoint(os.environ)}/{found[1]}/{quote(found[2])}"

    def refusal(self, refused: errors.Refused, url: str, fetch: Fetch) -> Failure:
        if "X-Amz-Signature=" in refused.url:
            return super().refusal(refused, url, fetch)
        failure = errors.refusal(refused)
        if failure.class_ == "unauthorized" and refused.token is None and "X-Goog-Signature=" not in url:
            failure.advise("not_public")
        return failure


KIND = Bucket()
