"""Files between this machine and an instance, over the SSH connection that is there."""

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
