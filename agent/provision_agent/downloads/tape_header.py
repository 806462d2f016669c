"""Read the headers of a tar archive within bounds: a long name or a list of attributes is never a file of its own.

The library reads such a header whole into memory, however large the archive says it is.
"""

from __future__ import annotations

import tarfile
from typing import Callable, Iterator

MAX_HEADER_BYTES = 1 << 20
"""Of one extended header; the longest path of a file system has 4 KiB."""
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class BoundedHeader(tarfile.TarInfo):
    """A header whose extension is no longer than `MAX_HEADER_BYTES`, and whose size is one."""

    def _proc_member(self, tape: tarfile.TarFile) -> tarfile.TarInfo:
        """The library's own place for what a kind of header needs. Raises ValueError."""
        if self.size < 0:
            raise ValueError("a member of less than no bytes")
        if self.type in _EXTENDED and self.size > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {self.size} bytes, more than {MAX_HEADER_BYTES}")
        return super()._proc_member(tape)  # type: ignore[misc,no-any-return]


def headers(
    tape: tarfile.TarFile, stop: Callable[[], bool], refuse_number: Callable[[int], None]
) -> Iterator[tarfile.TarInfo]:
    """Every header of *tape*, in turn.

    Args:
        stop: Asked between headers; True ends it early.
        refuse_number: Given how many there are so far; it raises when that is too many.

    Raises:
        ValueError, tarfile.TarError: this is no archive that can be read.
    """
    count, before = 0, -1
    while not stop():
        info = tape.next()
        if info is None:
            return
        count += 1
        refuse_number(count)
        if info.size < 0 or tape.offset <= before:
            raise ValueError("its members do not follow each other")
        before = tape.offset
        tape.members = []  # type: ignore[attr-defined]  # the library would keep all of them
        yield info
