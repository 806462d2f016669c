"""Where packages come from on this instance, as its owner told pip: in the environment, or in pip's own files.

Images of some regions name a mirror in ``/etc/pip.conf`` and reach nothing else. pip reads that by itself; what uv and
torch's own index must know of it stands here: indexes, and how they are reached (certificates, proxy, keyring).
"""

from __future__ import annotations

import configparser
import os
import shutil
from typing import Dict, List, Mapping, Sequence
from urllib.parse import quote, urlsplit

from ...contract.failures import Failure
from ...contract.plan_packages import PackageIndex

PYPI = "https://pypi.org/simple"
_UV_NAMES = {
    "index-url": "UV_INDEX_URL",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
    "constraint": "UV_CONSTRAINT",
}
"""Options that uv knows by another name."""
_UV_PLACES = ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_FIND_LINKS")
_WAYS = ("cert", "client-cert", "proxy", "keyring-provider")
"""Options that say how an index is reached."""
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""What pip's library takes certificates from, where its own option is not given."""
_OWN_AUTHORITIES = ("/usr/local/share/ca-certificates", "/etc/pki/ca-trust/source/anchors")
"""Where an image's owner puts certificates for the whole system."""
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
    names = (*_UV_NAMES, *_WAYS)
    for name in names:
        found[name] = os.environ.get(f"PIP_{name.upper().replace('-', '_')}", found.get(name, ""))
    return {name: " ".join(found[name].split()) for name in names if found[name].lower() not in _OFF}


def urls(settings: Mapping[str, str]) -> List[str]:
    """The indexes that *settings* mean, the first one first."""
    if "no-index" in settings:
        return []
    return [settings.get("index-url", PYPI), *settings.get("extra-index-url", "").split()]


def logins(settings: Mapping[str, str]) -> Dict[str, str]:
    """What the indexes that *settings* name are to be shown: ``user:password`` by ``scheme://host:port``, as it is written."""
    found: Dict[str, str] = {}
    told = [os.environ.get(name, "") for name in _UV_PLACES]
    for url in [*urls(settings), *settings.get("find-links", "").split(), *" ".join(told).split()]:
        url = url.rpartition("=")[2] if url.partition("=")[2].startswith("http") else url
        try:
            parts = urlsplit(url)
            login = parts.netloc.rpartition("@")[0]
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        except ValueError:
            continue
        if login:
            found[f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"] = login
    return found


def for_uv(settings: Mapping[str, str]) -> Dict[str, str]:
    """*settings* as uv reads them from its environment; it does not read pip's. What the user told uv itself goes before."""
    told = {uv: settings[name] for name, uv in _UV_NAMES.items() if name in settings and uv not in os.environ}
    if "UV_FIND_LINKS" in told:
        told["UV_FIND_LINKS"] = ",".join(told["UV_FIND_LINKS"].split())
    keyring = settings.get("keyring-provider")
    if keyring in ("import", "subprocess") and shutil.which("keyring"):
        told.setdefault("UV_KEYRING_PROVIDER", "subprocess")
    if "client-cert" in settings:
        told["SSL_CLIENT_CERT"] = os.path.expanduser(settings["client-cert"])
    proxy = settings.get("proxy")
    if proxy:
        told.update(dict.fromkeys(_PROXIES, proxy if "://" in proxy else f"http://{proxy}"))
    return {**told, **_authorities(settings)}


def of_profile(
    wanted: Sequence[PackageIndex],
    secrets: Mapping[str, str],
    environment: Mapping[str, str],
    *,
    is_for_uv: bool,
) -> Dict[str, str]:
    """What tells pip, or uv, of the indexes of the plan, besides those that *environment* names: by its environment only.

    Logins stand in the environment of that one child: in no argument, no file and no other program.

    Args:
        secrets: Values by name.
        environment: What the child gets otherwise.

    Raises:
        Failure: `unauthorized`, when a password is not set, or would go over http.
    """
    if not wanted:
        return {}
    told: Dict[str, str] = {}
    names = []
    for number, index in enumerate(wanted):
        login = _login(index, secrets)
        if not is_for_uv:
            names.append(_with_login(index.url, login))
            continue
        name = f"PROVISION{number}"
        names.append(f"{name.lower()}={index.url}")
        if login:
            told[f"UV_INDEX_{name}_USERNAME"], told[f"UV_INDEX_{name}_PASSWORD"] = login
    variable = "UV_INDEX" if is_for_uv else "PIP_EXTRA_INDEX_URL"
    told[variable] = " ".join([*environment.get(variable, "").split(), *names])
    return told


def logins_of(wanted: Sequence[PackageIndex], secrets: Mapping[str, str]) -> Dict[str, str]:
    """What the indexes of the plan are to be shown, as `logins`. Raises Failure, as `of_profile`."""
    shown = [(index.url, _login(index, secrets)) for index in wanted]
    return logins({"no-index": "1", "find-links": " ".join(_with_login(url, login) for url, login in shown)})


def _login(index: PackageIndex, secrets: Mapping[str, str]) -> Sequence[str]:
    if index.basic is None:
        return ()
    name = index.basic.secret
    if urlsplit(index.url).scheme != "https":
        message = f"the login of the index {index.url} is sent over https only"
        raise Failure("unauthorized", message, case="token_needs_https")
    if not secrets.get(name):
        message = f"`{name}`, which the index {index.url} wants, is not set"
        raise Failure("unauthorized", message, case="token_unset", about={"token": name})
    return index.basic.user, secrets[name]


def _with_login(url: str, login: Sequence[str]) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{':'.join(quote(word, safe='') for word in login)}@{rest}" if login else url


def _authorities(settings: Mapping[str, str]) -> Dict[str, str]:
    """Whose certificates uv is to believe: as pip, and where that says nothing, those of the system if it has its own."""
    bundle = settings.get("cert") or next(filter(None, map(os.environ.get, _BUNDLES)), None)
    if bundle is not None and ("cert" in settings or "SSL_CERT_FILE" not in os.environ):
        bundle = os.path.expanduser(bundle)
        return {"SSL_CERT_DIR" if os.path.isdir(bundle) else "SSL_CERT_FILE": bundle}
    has_own = any(os.path.isdir(folder) and os.listdir(folder) for folder in _OWN_AUTHORITIES)
    return {"UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"} if has_own else {}


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
