"""An S3 store on loopback that verifies every signature, and says no as Amazon's does.

A request is taken when botocore, given the secret that the store knows, comes to the same signature; with the right region, within
15 minutes of the store's clock, with the right session token, and before it expires. Bodies of refusals, codes and statuses are
those of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.

    with S3Server() as store:
        store.add("models", "a b.safetensors", data)
        store.url  # http://127.0.0.1:PORT
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

SKEW_S = 15 * 60
SLICE, LARGE_SLICE = 1 << 18, 1 << 22
STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Refusal(Exception):
    """What the store says no with."""

    status: int
    code: str
    message: str = ""
    more: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int

    @property
    def is_of_a_file(self) -> bool:
        return self.method == "GET" and "list-type" not in self.query


class S3Server:
    """A store with `buckets` of objects. Everything may be changed while it runs.

    Args:
        region: Where its buckets are.
        bytes_per_s: Cap of every connection.
        page: Keys in one page of a listing.
        is_virtual: The bucket is the first label of the ``Host``.
    """

    def __init__(
        self,
        *,
        region: str = "us-east-1",
        bytes_per_s: int | None = None,
        page: int = 1000,
        port: int = 0,
        is_virtual: bool = False,
    ) -> None:
        self.keys: dict[str, str] = {"AKIDEXAMPLE": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
        self.tokens: dict[str, str] = {}
        """Session tokens by access key."""
        self.expired_tokens: set[str] = set()
        self.region = region
        self.bytes_per_s = bytes_per_s
        self.page = page
        self.is_virtual = is_virtual
        self.public: set[str] = set()
        self.denied: set[str] = set()
        """Keys that nobody may read."""
        self.clock: Callable[[], float] = time.time
        self.redirect_to: str | None = None
        """Another store, to which every request is sent by 307."""
        self.cut_after: int | None = None
        """Send so many bytes of a body and then close, until it is set to None."""
        self.on_file: Callable[[str], None] = lambda key: None
        """Told, before it is served, that an object is asked for by a signed address."""
        self.requests: list[Asked] = []
        self.bytes_sent = 0
        self._objects: dict[str, dict[str, bytes]] = {}
        self._etags: dict[int, str] = {}
        self._etag_of: dict[tuple[str, str], str] = {}
        self._checksums: set[tuple[str, str]] = set()
        self._expired: set[str] = set()
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        store = self

        class Handler(_Handler):
            server_store = store

        self._server = _Listener(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://{'localhost' if self.is_virtual else '127.0.0.1'}:{self.port}"

    def __enter__(self) -> S3Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def add(self, bucket: str, key: str, data: bytes, *, has_checksum: bool = False) -> None:
        """Put an object into *bucket*, which is made if it is not there."""
        self._objects.setdefault(bucket, {})[key] = data
        if (made := self._etags.get(id(data))) is None:
            made = self._etags[id(data)] = f'"{hashlib.md5(data).hexdigest()}"'
        self._etag_of[bucket, key] = made
        if has_checksum:
            self._checksums.add((bucket, key))

    def expire(self) -> None:
        """No address that was used so far works any more."""
        with self._lock:
            self._expired |= self._seen

    def files(self, status: int | None = None) -> list[Asked]:
        """The requests for objects so far, those answered with *status*."""
        return [each for each in list(self.requests) if each.is_of_a_file and status in (None, each.status)]

    # -- who may

    def admit(self, method: str, target: str, headers: dict[str, str], bucket: str, key: str) -> None:
        """Raises Refusal unless the request is signed as it must be."""
        query = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
        if "X-Amz-Signature" in query:
            self._admit_address(method, target, headers, query)
        elif "authorization" in headers:
            self._admit_header(method, target, headers)
        elif bucket not in self.public:
            raise Refusal(403, "AccessDenied", "Access Denied")
        if key in self.denied:
            raise Refusal(403, "AccessDenied", "Access Denied")

    def _admit_address(
        self, method: str, target: str, headers: dict[str, str], query: dict[str, str]
    ) -> None:
        access, _, region = query["X-Amz-Credential"].split("/")[:3]
        self._admit_key(access, query.get("X-Amz-Security-Token"), query["X-Amz-Date"], is_header=False)
        if region != self.region:
            raise Refusal(
                400,
                "AuthorizationQueryParametersError",
                f"Error parsing the X-Amz-Credential parameter; the region '{region}' is wrong; expecting '{self.region}'",
                f"<Region>{self.region}</Region>",
            )
        lives_s = int(query["X-Amz-Expires"])
        if lives_s > 7 * 24 * 3600:
            raise Refusal(400, "AuthorizationQueryParametersError", "X-Amz-Expires must be less than a week")
        parts = urlsplit(target)
        unsigned = "&".join(
            pair for pair in parts.query.split("&") if not pair.startswith("X-Amz-Signature=")
        )
        request = AWSRequest(method="GET", url=f"http://{headers['host']}{parts.path}?{unsigned}")
        request.context["timestamp"] = query["X-Amz-Date"]
        auth = S3SigV4QueryAuth(self._credentials(access), "s3", region, expires=lives_s)
        self._compare(auth, request, query["X-Amz-Signature"])
        signed_at = _unix(query["X-Amz-Date"])
        with self._lock:
            is_expired = query["X-Amz-Signature"] in self._expired
            self._seen.add(query["X-Amz-Signature"])
        if is_expired or self.clock() > signed_at + lives_s:
            raise Refusal(403, "AccessDenied", "Request has expired")

    def _admit_header(self, method: str, target: str, headers: dict[str, str]) -> None:
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, SignedHeaders=([^,]+), Signature=(\w+)",
            headers["authorization"],
        )
        if found is None:
            raise Refusal(400, "AuthorizationHeaderMalformed", "The authorization header is malformed")
        access, _, region, names, signature = found.groups()
        self._admit_key(
            access, headers.get("x-amz-security-token"), headers.get("x-amz-date", ""), is_header=True
        )
        if region != self.region:
            raise Refusal(
                400,
                "AuthorizationHeaderMalformed",
                f"The authorization header is malformed; the region '{region}' is wrong; expecting '{self.region}'",
                f"<Region>{self.region}</Region>",
                {"x-amz-bucket-region": self.region},
            )
        request = AWSRequest(
            method=method,
            url=f"http://{headers['host']}{target}",
            headers={name: headers[name] for name in names.split(";") if name != "host"},
        )
        request.context["timestamp"] = headers["x-amz-date"]
        self._compare(S3SigV4Auth(self._credentials(access), "s3", region), request, signature)

    def _admit_key(self, access: str, token: str | None, stamp: str, *, is_header: bool) -> None:
        if access not in self.keys:
            raise Refusal(
                403,
                "InvalidAccessKeyId",
                "The AWS Access Key Id you provided does not exist in our records.",
                f"<AWSAccessKeyId>{access}</AWSAccessKeyId>",
            )
        if token in self.expired_tokens:
            raise Refusal(400, "ExpiredToken", "The provided token has expired.")
        if token != self.tokens.get(access):
            raise Refusal(403, "InvalidToken", "The provided token is malformed or otherwise invalid.")
        off_s = _unix(stamp) - self.clock()
        if is_header and abs(off_s) > SKEW_S:
            raise Refusal(
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
            )
        if not is_header and off_s > SKEW_S:
            raise Refusal(403, "AccessDenied", "Request is not valid yet")

    def _credentials(self, access: str) -> Credentials:
        return Credentials(access, self.keys[access], self.tokens.get(access))

    def _compare(self, auth: Any, request: AWSRequest, signature: str) -> None:
        canonical = auth.canonical_request(request)
        wanted = auth.signature(auth.string_to_sign(request, canonical), request)
        if wanted != signature:
            raise Refusal(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
                f"<SignatureProvided>{signature}</SignatureProvided>",
            )

    # -- what there is

    def find(self, bucket: str, key: str) -> bytes:
        """The object, or a Refusal."""
        if bucket not in self._objects:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist")
        if key and key not in self._objects[bucket]:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        return self._objects[bucket].get(key, b"")

    def etag(self, bucket: str, key: str) -> str:
        """The MD5 of an object that came in one part."""
        return self._etag_of.get((bucket, key), '""')

    def checksum(self, bucket: str, key: str) -> str | None:
        """What ``x-amz-checksum-sha256`` says of the object."""
        if (bucket, key) not in self._checksums:
            return None
        return base64.b64encode(hashlib.sha256(self._objects[bucket][key]).digest()).decode()

    def listing(self, bucket: str, query: dict[str, str]) -> bytes:
        """A page of ListObjectsV2."""
        self.find(bucket, "")
        after = query.get("continuation-token", "")
        keys = sorted(key for key in self._objects[bucket] if key.startswith(query.get("prefix", "")))
        left = [key for key in keys if key > after]
        page = left[: min(self.page, int(query.get("max-keys", "1000")))]
        is_cut = len(left) > len(page)
        written = quote if query.get("encoding-type") == "url" else escape
        entries = "".join(
            f"<Contents><Key>{written(key)}</Key><Size>{len(self._objects[bucket][key])}</Size></Contents>"
            for key in page
        )
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if is_cut else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><EncodingType>{query.get('encoding-type', '')}</EncodingType>"
            f"<IsTruncated>{'true' if is_cut else 'false'}</IsTruncated>{more}{entries}</ListBucketResult>"
        ).encode()


class _Listener(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_store: S3Server

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        store = self.server_store
        headers = {name.lower(): value for name, value in self.headers.items()}
        bucket, key = self._place(headers["host"])
        query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        try:
            if store.redirect_to is not None:
                raise Refusal(
                    307,
                    "TemporaryRedirect",
                    "Please re-send this request to the specified temporary endpoint.",
                    headers={"Location": store.redirect_to + self.path},
                )
            store.admit(self.command, self.path, headers, bucket, key)
            if "list-type" in query:
                return self._send(200, store.listing(bucket, query), {"Content-Type": "application/xml"})
            if "X-Amz-Signature" in query:
                store.on_file(key)
            data = store.find(bucket, key)
        except Refusal as refusal:
            body = (
                f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{refusal.code}</Code>'
                f"<Message>{escape(refusal.message)}</Message>{refusal.more}<RequestId>1</RequestId></Error>"
            )
            return self._send(
                refusal.status, body.encode(), {"Content-Type": "application/xml", **refusal.headers}
            )
        checksum = store.checksum(bucket, key)
        told = {"ETag": store.etag(bucket, key), "Accept-Ranges": "bytes"}
        if checksum is not None and self.headers.get("x-amz-checksum-mode") == "ENABLED":
            told.update({"x-amz-checksum-sha256": checksum, "x-amz-checksum-type": "FULL_OBJECT"})
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return self._send(200, data, told)
        start = int(span[1])
        end = min(len(data), int(span[2]) + 1) if span[2] else len(data)
        told["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return self._send(206, memoryview(data)[start:end], told)

    def _place(self, host: str) -> tuple[str, str]:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if self.server_store.is_virtual:
            return host.partition(".")[0], path
        bucket, _, key = path.partition("/")
        return bucket, key

    def _send(self, status: int, data: bytes | memoryview, headers: dict[str, str]) -> None:
        store = self.server_store
        parts = urlsplit(self.path)
        lower = {name.lower(): value for name, value in self.headers.items()}
        store.requests.append(Asked(self.command, unquote(parts.path), parts.query, lower, status))
        with suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self._pour(memoryview(data), status)

    def _pour(self, view: memoryview, status: int) -> None:
        store = self.server_store
        began, sent = time.monotonic(), 0
        cut = store.cut_after if status == 206 else None
        end = len(view) if cut is None else min(cut, len(view))
        while sent < end:
            count = min(SLICE if store.bytes_per_s else LARGE_SLICE, end - sent)
            self.wfile.write(view[sent : sent + count])
            sent += count
            store.bytes_sent += count
            if store.bytes_per_s:
                time.sleep(max(0.0, sent / store.bytes_per_s - (time.monotonic() - began)))
        if end < len(view):
            self.close_connection = True


def _unix(stamp: str) -> float:
    moment = datetime.datetime.strptime(stamp, STAMP).replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def main() -> None:
    """Serve a bucket ``models`` of equal files until killed: for benchmarks."""
    options = argparse.ArgumentParser()
    options.add_argument("--files", type=int, default=8)
    options.add_argument("--mib", type=int, default=256)
    options.add_argument("--bytes-per-s", type=int, default=0)
    options.add_argument("--port", type=int, default=0)
    asked = options.parse_args()
    store = S3Server(bytes_per_s=asked.bytes_per_s or None, port=asked.port)
    block = bytes(range(256)) * 4096
    data = block * asked.mib
    for number in range(asked.files):
        store.add("models", f"m{number}.bin", data)
    print(store.url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
