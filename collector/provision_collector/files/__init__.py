"""Files between this machine and an instance, over the SSH connection that is there."""

from .sources import UploadSource, sources_of, without_local_files
from .tree import Listing, list_source

__all__ = ["Listing", "UploadSource", "list_source", "sources_of", "without_local_files"]
