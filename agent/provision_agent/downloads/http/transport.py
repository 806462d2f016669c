"""A connection to a server: names resolved, addresses raced, proxies and TLS honoured.

Every step is bounded by the caller's time and ends soon after the caller's *stop* says so.
"""

from __future__ import annotations

import base64
import os
import queue
import selectors
import socket
import ssl
import threading
import time
import urllib.request
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple, TypeVar, Union
from urllib.parse import unquote, urlsplit

from ...contract.failures import Failure

DEFAULT_PORTS = {"http": 80, "https": 443}
NEXT_ADDRESS_AFTER_S = 0.25
"""How long one address may keep the next from being tried; RFC 8305 §5 recommends 250 ms."""
NAME_KEPT_S = 60.0

LOOK_UP_EVERY_S = 0.25

Stop = Callable[[], bool]
SocketAddress = Union[Tuple[str, int], Tuple[str, int, int, int], Tuple[int, bytes]]
AddressInfo = Tuple[socket.AddressFamily, socket.SocketKind, int, str, SocketAddress]
"""One answer of `getaddrinfo`: family, kind, protocol, canonical name, and what `connect` takes."""
T = TypeVar("T")


class Patience:
    """How long an answer is waited for: until a deadline, and until somebody wants to stop."""

    def __init__(self, wait_s: float, stop: Stop) -> None:
        self._deadline = time.monotonic() + wait_s
        self._stop = stop

    @property
    def left_s(self) -> float:
        """Never quite 0, which would mean something else to a socket."""
        return max(0.01, self._deadline - time.monotonic())

    def until_done(self, opened: socket.socket, step: Callable[[], T]) -> T:
        """Do *step* on *opened*, repeated after each short time-out, as long as there is time.

        Raises:
            socket.timeout: the time is over, or the wait is not wanted any more.
        """
        while True:
            if time.monotonic() >= self._deadline:
                raise socket.timeout(
                    "it drips"
                )  # what comes in small pieces has no more time than what comes at once
            opened.settimeout(min(LOOK_UP_EVERY_S, self.left_s))
            try:
                return step()
            except socket.timeout:
                if self._stop() or time.monotonic() >= self._deadline:
                    raise


class Origin(NamedTuple):
    """Who is spoken to: what a token may not be carried away from."""

    scheme: str
    host: str
    port: int


def origin_of(url: str) -> Origin:
    """The origin of an http(s) *url*.

    Raises:
        Failure: `not_found`, when this is no URL that can be fetched.
    """
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port
    except ValueError:
        scheme, host, port = "", "", None
    if scheme not in DEFAULT_PORTS or not host:
        raise Failure("not_found", f"`{url.split('?')[0]}` is no http or https URL")
    return Origin(scheme, host, port or DEFAULT_PORTS[scheme])


def proxy_for(origin: Origin) -> Optional[str]:
    """The proxy that the environment names for *origin* (``https_proxy``, ``no_proxy`` and their kin)."""
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(origin.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def connect(
    origin: Origin,
    *,
    timeout_s: float,
    stop: Stop,
    on_socket: Callable[[socket.socket], None] = lambda opened: None,
) -> socket.socket:
    """Open a connection to *origin*: TCP, the proxy's tunnel, TLS.

    Args:
        timeout_s: For everything together.
        stop: Asked often; True ends the wait.
        on_socket: Is given the socket before anything is said on it, so that another thread may shut it down.

    Raises:
        Failure: `unreachable` or `tls`.
    """
    patience = Patience(timeout_s, stop)
    deadline = time.monotonic() + timeout_s
    proxy = proxy_for(origin)
    address = _proxy_address(proxy) if proxy else (origin.host, origin.port)
    opened = None
    try:
        opened = _race(_addresses(*address, deadline, stop), deadline, stop)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.settimeout(patience.left_s)
        if origin.scheme == "https":
            if proxy:
                _tunnel(opened, origin, proxy)
            opened = _tls_context().wrap_socket(
                opened, server_hostname=origin.host, do_handshake_on_connect=False
            )
        on_socket(opened)
        if isinstance(opened, ssl.SSLSocket):
            patience.until_done(opened, opened.do_handshake)
    except (OSError, UnicodeError) as error:
        if opened is not None:
            opened.close()
        raise connection_failure(error, origin, timeout_s) from None
    except BaseException:
        if opened is not None:
            opened.close()
        raise
    return opened


def connection_failure(error: Exception, origin: Origin, timeout_s: float) -> Failure:
    """The failure that an error of the network means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure("tls", f"{origin.host}: {error.verify_message or error.reason}")
    place = f"{origin.host}:{origin.port}"
    if isinstance(error, socket.gaierror):
        message = f"the name `{origin.host}` cannot be resolved: {error.strerror}"
    elif isinstance(error, socket.timeout):
        message = f"no answer from {place} within {timeout_s:.0f} s"
    else:
        message = f"{place}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}"
    is_unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
    failure = Failure("unreachable", message, case="unknown_host" if is_unknown else None)
    failure.place = place
    return failure


def shut(opened: socket.socket) -> None:
    """End *opened* from another thread: whoever reads from it wakes at once.

    The base class's method, because an SSLSocket's own would let the reader see bytes that are still encrypted.
    """
    try:
        socket.socket.shutdown(opened, socket.SHUT_RDWR)
    except OSError:
        pass


_names: Dict[Tuple[str, int], Tuple[float, List[AddressInfo]]] = {}
_names_lock = threading.Lock()


def _addresses(host: str, port: int, deadline: float, stop: Stop) -> List[AddressInfo]:
    """Addresses of *host*, both families in turn; `getaddrinfo` has no timeout, so it gets a thread of its own."""
    with _names_lock:
        kept_until, found = _names.get((host, port), (0.0, []))
    if kept_until > time.monotonic():
        return found
    answers: "queue.Queue[Union[List[AddressInfo], Exception]]" = queue.Queue()

    def look_up() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    while not stop() and time.monotonic() < deadline:
        try:
            answer = answers.get(timeout=min(0.25, max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            continue
        if isinstance(answer, Exception):
            raise answer
        found = _in_turn(answer)
        with _names_lock:
            _names[host, port] = (time.monotonic() + NAME_KEPT_S, found)
        return found
    raise socket.timeout("the name was not resolved in time")


def _in_turn(found: List[AddressInfo]) -> List[AddressInfo]:
    """Alternate the families, so that a broken one costs one wait and not one per address."""
    first = [entry for entry in found if entry[0] == found[0][0]]
    other = [entry for entry in found if entry[0] != found[0][0]]
    pairs = [entry for pair in zip(first, other) for entry in pair]
    shorter = min(len(first), len(other))
    return pairs + first[shorter:] + other[shorter:]


def _race(addresses: List[AddressInfo], deadline: float, stop: Stop) -> socket.socket:
    """The first address that answers, each next one started a moment after the last."""
    waiting, error = list(addresses), OSError("no address")
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                left_s = deadline - time.monotonic()
                if left_s <= 0 or stop():
                    raise socket.timeout("not connected in time")
                if waiting:
                    error = _begin(waiting.pop(0), selector) or error
                pause_s = NEXT_ADDRESS_AFTER_S if selector.get_map() else 0.0
                for key, _ in selector.select(min(pause_s, left_s)):
                    selector.unregister(key.fileobj)
                    opened: socket.socket = key.data
                    code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        return opened
                    opened.close()
                    error = OSError(code, os.strerror(code))
            raise error
        finally:
            for key in list(selector.get_map().values()):
                key.data.close()


def _begin(entry: AddressInfo, selector: selectors.BaseSelector) -> Optional[OSError]:
    family, kind, protocol, _, address = entry
    try:
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        return error
    opened.setblocking(False)
    try:
        opened.connect(address)
    except BlockingIOError:
        pass
    except OSError as error:
        opened.close()
        return error
    selector.register(opened, selectors.EVENT_WRITE, opened)
    return None


def _proxy_address(proxy: str) -> Tuple[str, int]:
    parts = urlsplit(proxy)
    if parts.scheme != "http" or not parts.hostname:
        raise Failure(
            "unreachable",
            f"a proxy of kind `{parts.scheme}` is not supported",
            case="proxy_kind",
            retriable=False,
        )
    return parts.hostname, parts.port or 80


def proxy_authorization(proxy: str) -> Optional[str]:
    """The header value for the user and password in *proxy*'s URL, if there are any."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _tunnel(opened: socket.socket, origin: Origin, proxy: str) -> None:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"Host: {host}:{origin.port}"]
    authorization = proxy_authorization(proxy)
    if authorization:
        lines.append(f"Proxy-Authorization: {authorization}")
    opened.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n") and len(answer) < 65536:
        byte = opened.recv(1)  # one at a time: what follows the head belongs to TLS
        if not byte:
            break
        answer += byte
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise Failure(
            "unreachable",
            f"the proxy does not let through to {origin.host}: `{status or 'no answer'}`",
            case="proxy_refuses",
        )


_tls_lock = threading.Lock()
_tls: List[Tuple[Tuple[Optional[str], ...], ssl.SSLContext]] = []


def _tls_context() -> ssl.SSLContext:
    """One context for all connections, because loading the CA certificates takes longer than a handshake."""
    wanted = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    with _tls_lock:
        if not _tls or _tls[0][0] != wanted:
            _tls[:] = [(wanted, ssl.create_default_context())]
        return _tls[0][1]
