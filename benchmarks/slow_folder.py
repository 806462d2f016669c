"""A folder on which every operation takes a while: a stand-in for a rented network volume, with FUSE.

    python benchmarks/slow_folder.py KEPT_IN MOUNTED_AT --latency-s 0.005      until it is interrupted

Needs `pip install fusepy` and `apt install libfuse2 fuse`; what is written lies in KEPT_IN.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

try:
    from fuse import FUSE, Operations
except (ImportError, OSError) as error:
    sys.exit(f"no FUSE for Python here ({error}): `pip install fusepy`, `apt install libfuse2 fuse`")

_FACTS = (
    *("st_atime", "st_ctime", "st_gid", "st_ino", "st_mode"),
    *("st_mtime", "st_nlink", "st_size", "st_uid"),
)
_STATFS = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize")


class SlowFolder(Operations):  # type: ignore[misc,unused-ignore]
    """Hands everything on to a folder, late. *latency_s* is for each operation; several go on at once."""

    def __init__(self, folder: str, latency_s: float) -> None:
        self._folder = folder
        self._latency_s = latency_s

    def __call__(self, operation: str, *arguments: Any) -> Any:
        time.sleep(self._latency_s)
        return super().__call__(operation, *arguments)

    def _at(self, path: str) -> str:
        return self._folder + path

    def getattr(self, path: str, fh: int | None = None) -> dict[str, float]:
        found = os.lstat(self._at(path))
        return {name: getattr(found, name) for name in _FACTS}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def symlink(self, target: str, source: str) -> None:
        os.symlink(source, self._at(target))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def link(self, target: str, source: str) -> None:
        os.link(self._at(source), self._at(target))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._at(path), uid, gid, follow_symlinks=False)

    def utimens(self, path: str, times: tuple[float, float] | None = None) -> None:
        os.utime(self._at(path), times, follow_symlinks=False)

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in _STATFS}

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags)

    def create(self, path: str, mode: int, fi: object = None) -> int:
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path) if fh is None else fh, length)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kept_in")
    parser.add_argument("mounted_at")
    parser.add_argument("--latency-s", type=float, default=0.005)
    options = parser.parse_args()
    folder = os.path.abspath(options.kept_in)
    FUSE(SlowFolder(folder, options.latency_s), options.mounted_at, foreground=True, big_writes=True)


if __name__ == "__main__":
    main()
