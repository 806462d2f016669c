"""Where packages come from on this instance, as its owner told pip: in the environment, or in pip's own files.

Images of some regions name a mirror in ``/etc/pip.conf`` and reach nothing else. pip reads that by itself; what uv and
torch's own index must know of it stands here.
"""

from __future__ import annotations

import configparser
import os
from typing import Dict, List, Mapping

PYPI = "https://pypi.org/simple"
_UV_NAMES = {
    "index-url": "UV_INDEX_URL",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
}
_OFF = ("", "0", "false", "no", "off")


def configured(venv: str) -> Dict[str, str]:
    """What pip in the environment *venv* is told, by the name of its option; words are separated by spaces."""
    found: Dict[str, str] = {}
    for path in _files(venv):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, ValueError, configparser.Error):
            continue  # pip will say so
        for section in filter(parser.has_section, ("global", "install")):
            found.update((name.replace("_", "-"), value) for name, value in parser.items(section))
    for name in _UV_NAMES:
        found[name] = os.environ.get(f"PIP_{name.upper().replace('-', '_')}", found.get(name, ""))
    return {name: " ".join(found[name].split()) for name in _UV_NAMES if found[name].lower() not in _OFF}


def urls(settings: Mapping[str, str]) -> List[str]:
    """The indexes that *settings* mean, the first one first."""
    if "no-index" in settings:
        return []
    return [settings.get("index-url", PYPI), *settings.get("extra-index-url", "").split()]


def for_uv(settings: Mapping[str, str]) -> Dict[str, str]:
    """*settings* as uv reads them from its environment; it does not read pip's."""
    return {_UV_NAMES[name]: value for name, value in settings.items()}


def _files(venv: str) -> List[str]:
    """pip's files, the later ones win.

    Source: pip's user guide, "Configuration" (global, user, site, then PIP_CONFIG_FILE, which os.devnull switches off).
    """
    own = os.environ.get("PIP_CONFIG_FILE", "")
    if own == os.devnull:
        return []
    everyone = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)
    user = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    folders = [os.path.join(folder, "pip") for folder in everyone]
    folders += ["/etc", os.path.expanduser("~/.pip"), os.path.join(user, "pip"), venv]
    return [os.path.join(folder, "pip.conf") for folder in folders] + [own]
