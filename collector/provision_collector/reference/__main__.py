"""Write the generated documents into a directory."""

from __future__ import annotations

import sys
from pathlib import Path

from . import DOCUMENTS


def main(directory: str) -> None:
    """Write every document into *directory*, and say which."""
    for name, document in DOCUMENTS.items():
        path = Path(directory) / name
        path.write_text(document(), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1])
