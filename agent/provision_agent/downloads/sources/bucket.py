"""Public objects of Google Cloud Storage: ``gs://BUCKET/KEY``.

`STORAGE_EMULATOR_HOST` names another server with the same interface, as it does for Google's own clients.
"""

from __future__ import annotations

import os
import re
from typing import Optional
from urllib.parse import quote

from ...contract.failures import Failure
from ...contract.source_kinds import SOURCE_KINDS
from ..http import errors
from .http import Fetch, WebServer


class Bucket(WebServer):
    """``gs://…``, and links of storage.googleapis.com as they are."""

    def address(self, url: str) -> Optional[str]:
        found = re.fullmatch(r"gs://([^/?#]+)/(.+)", url)
        if found is None:
            return None if url.startswith("gs:") else super().address(url)
        return f"{SOURCE_KINDS['bucket'].endpoint(os.environ)}/{found[1]}/{quote(found[2])}"

    def refusal(self, refused: errors.Refused, url: str, fetch: Fetch) -> Failure:
        failure = errors.refusal(refused)
        if failure.class_ == "unauthorized" and refused.token is None and "X-Goog-Signature=" not in url:
            failure.advise("not_public")
        return failure


KIND = Bucket()
