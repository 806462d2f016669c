"""Files that this machine has, or has the keys of: what an instance may get of them, and how; and its files that come here."""

from .sources import UploadSource, refuse_missing, sources_of, sources_within, without_local_files
from .tree import Listing, list_all

__all__ = [
    "Listing",
    "UploadSource",
    "list_all",
    "refuse_missing",
    "sources_of",
    "sources_within",
    "without_local_files",
]
