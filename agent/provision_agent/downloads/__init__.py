"""Model downloads: parallel, resumable, verified. A final name means a verified file.

`Downloads` fetches what a plan lists; `Sources` answers what a URL has, for everybody who only wants to know.
"""

from .preflight import Preflight
from .queue import Downloads, Line, Result
from .sources.lookup import Answer, Sources

__all__ = ["Answer", "Downloads", "Line", "Preflight", "Result", "Sources"]
