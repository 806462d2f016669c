"""What a repository had when it was listed last: kept beside the state, for runs that may ask nobody."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from ...contract.parsing import ParseError, bounded, parse, read_object, to_json
from ...contract.plan import Download
from ...run.context import Context
from ...run.state import write_atomically
from .hub_cache import CachedFile
from .repository_file import RepositoryFile, inherited

KIND = "listings"
MAX_LINE_BYTES = 1 << 20
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class _Head:
    """Of which item, as far as that decides which files are wanted."""

    url: str = ""
    path: str = ""
    layout: str = ""
    include: Tuple[str, ...] = ()
    exclude: Tuple[str, ...] = ()

    @classmethod
    def of(cls, item: Download) -> _Head:
        return cls(item.url, item.path, item.layout, item.include, item.exclude)


@dataclass(frozen=True)
class _File:
    """One file, as far as it is not as its item."""

    url: str
    path: str
    size_bytes: Optional[int] = None
    sha256: Optional[str] = bounded(None, max_chars=64)
    git_sha1: Optional[str] = bounded(None, max_chars=40)
    cache: str = ""
    revision: str = ""
    commit: str = ""
    names: Tuple[str, ...] = ()


def keep(item: Download, files: Sequence[Download], context: Context) -> None:
    """Remember that *item* means *files* now; that it cannot be written costs nothing now."""
    lines = [json.dumps(to_json(_Head.of(item)))]
    for file in files:
        own = {name: getattr(file, name, None) for name in _File.__dataclass_fields__}
        own = {name: value for name, value in own.items() if value not in (None, "", ())}
        lines.append(json.dumps(to_json(_File(**own))))  # type: ignore[arg-type]
    data = "".join(f"{line}\n" for line in lines).encode()
    path = context.state.beside(KIND, item.key)
    try:
        if os.path.exists(path):
            with open(path, "rb") as known:
                if known.read(len(data) + 1) == data:
                    return
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_atomically(path, data)
    except OSError:
        pass


def recalled(item: Download, context: Context) -> Optional[List[Download]]:
    """The files that *item* meant when it was listed last; None where that is not known."""
    try:
        with open(context.state.beside(KIND, item.key), "rb") as kept:
            lines = kept.read(MAX_BYTES).splitlines()
        head = parse(_Head, read_object(lines[0], max_bytes=MAX_LINE_BYTES))
        found = [parse(_File, read_object(line, max_bytes=MAX_LINE_BYTES)) for line in lines[1:]]
    except (OSError, ParseError, IndexError):
        return None
    return [_item(item, file) for file in found] if head == _Head.of(item) else None


def _item(item: Download, file: _File) -> Download:
    own = {"url": file.url, "path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256}
    all_of_it = {**inherited(item), **own, "of": item.key, "git_sha1": file.git_sha1}
    if not file.names:
        return RepositoryFile(**all_of_it)  # type: ignore[arg-type]
    return CachedFile(
        **all_of_it,  # type: ignore[arg-type]
        cache=file.cache,
        revision=file.revision,
        commit=file.commit,
        names=file.names,
    )
