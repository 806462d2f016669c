"""Who may ask the server, and what it answers to nonsense: no 5xx, nothing leaks, nothing is written elsewhere."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from .server import TOKEN, Server

PROFILE = "version: 1\nname: x\nfiles: [{path: a.txt, content: a}]\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    body = {
        "host": "127.0.0.1",
        "port": closed_port(),
        "boot_grace": "1ms",
        "profile_yaml": PROFILE,
        "run_id": "seed",
    }
    server.post("/api/runs", body)
    server.outcome("seed")
    yield server
    server.close()


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def error_of(answer: tuple[int, dict[str, str], bytes]) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer[2])["error"]
    assert {"class", "message", "hint"} <= set(error)
    return error


PATHS = (
    "/api/runs",
    "/api/runs/seed",
    "/api/runs/seed/events",
    "/api/runs/seed/log",
    "/api/hosts",
    "/metrics",
    "/openapi.json",
    "/page/app.js",
    "/page/words.js",
)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_told_without_the_token(server: Server, path: str) -> None:
    for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", "ä"):
        headers = {} if token is None else {"Authorization": f"Bearer {token}".encode()}
        status, told, body = server.ask("GET", path, token=None, headers=headers)  # type: ignore[arg-type]
        assert (status, told["www-authenticate"]) == (401, "Bearer")
        assert json.loads(body)["error"]["class"] == "unauthorized"
    assert server.ask("GET", path)[0] == 200


def test_health_is_open_and_says_nothing_else(server: Server) -> None:
    assert server.ask("GET", "/healthz", token=None)[2] == b'{"status":"ok"}'


def test_a_foreign_host_or_origin_is_refused_even_with_the_token(server: Server) -> None:
    own = f"127.0.0.1:{server.port}"
    assert server.ask("GET", "/api/runs", headers={"Host": "evil.example"})[0] == 421
    assert server.ask("GET", "/healthz", headers={"Host": "evil.example"})[0] == 421
    for origin in (
        "http://evil.example",
        "null",
        f"http://{own}.evil.example",
        "http://[",
        f"evil://{own}",
        own,
    ):
        status, headers, _ = server.ask("GET", "/api/runs", headers={"Origin": origin})
        assert status == 403
        assert "access-control-allow-origin" not in headers
    assert server.ask("GET", "/api/runs", headers={"Origin": f"http://{own}"})[0] == 200


def test_other_names_and_origins_may_ask_when_the_operator_says_so(tmp_path: Path) -> None:
    page = "https://pool.example"
    server = Server(tmp_path, "--allow-host", "provision.example", "--cors-origin", page)
    server.start()
    try:
        assert server.ask("GET", "/api/runs", headers={"Host": "provision.example"})[0] == 200
        status, headers, _ = server.ask("GET", "/api/runs", headers={"Origin": page})
        assert (status, headers["access-control-allow-origin"]) == (200, page)
        asked = {
            "Origin": page,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        status, headers, _ = server.ask("OPTIONS", "/api/runs", token=None, headers=asked)
        assert (status, headers["access-control-allow-origin"]) == (200, page)
        for path in ("/api/runs", "/"):
            foreign = {**asked, "Origin": "https://evil.example"}
            status, headers, _ = server.ask("OPTIONS", path, token=None, headers=foreign)
            assert status >= 400
            assert "access-control-allow-origin" not in headers
        assert server.ask("GET", "/api/runs", token=None, headers={"Origin": page})[0] == 401
    finally:
        server.close()


def cookie_of(headers: dict[str, str]) -> dict[str, str]:
    return {"Cookie": headers["set-cookie"].partition(";")[0]}


def test_the_printed_link_gives_a_cookie_that_scripts_and_other_sites_cannot_use(server: Server) -> None:
    page = urlsplit(server.page)
    at_page = {"Host": page.netloc}
    status, headers, _ = server.ask("GET", f"/?token={TOKEN}", token=None, headers=at_page)
    cookie = headers["set-cookie"]
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert "max-age=43200" in cookie.lower()
    assert "domain" not in cookie.lower()
    assert TOKEN not in cookie
    session = {**at_page, **cookie_of(headers)}
    own = {"Origin": f"http://{page.netloc}"}
    assert server.ask("GET", "/", token=None, headers=session)[0] == 200
    assert server.ask("GET", "/api/runs", token=None, headers=session)[0] == 200
    assert server.ask("POST", "/api/runs/seed/stop", token=None, headers=session)[0] == 403
    assert server.ask("POST", "/api/runs/seed/stop", token=None, headers={**session, **own})[0] == 202
    status, headers, _ = server.ask("GET", "/?token=wrong", token=None, headers=at_page)
    assert (status, headers.get("set-cookie")) == (401, None)


def test_the_page_has_a_name_that_no_other_port_is_asked_by(server: Server) -> None:
    page = urlsplit(server.page)
    assert re.fullmatch(r"[0-9a-f]{20}\.localhost", page.hostname or "")
    for shared in (f"127.0.0.1:{server.port}", f"localhost:{server.port}"):
        status, headers, _ = server.ask("GET", f"/?token={TOKEN}", token=None, headers={"Host": shared})
        assert (status, headers.get("set-cookie")) == (303, None), (
            "no cookie where every program would get it"
        )
        to = urlsplit(headers["location"])
        assert (to.netloc, TOKEN in to.query) == (page.netloc, False)
        at_page = {"Host": to.netloc}
        status, headers, body = server.ask("GET", f"/?{to.query}", token=None, headers=at_page)
        assert (status, b'http-equiv="refresh"' in body) == (200, True)
        session = cookie_of(headers)
        assert server.ask("GET", "/api/runs", token=None, headers={**at_page, **session})[0] == 200
        assert server.ask("GET", "/api/runs", token=None, headers={"Host": shared, **session})[0] == 401
        status, headers, _ = server.ask("GET", f"/?{to.query}", token=None, headers=at_page)
        assert (status, headers.get("set-cookie")) == (401, None), "a ticket is for once"
    status, headers, _ = server.ask("GET", "/", token=None)
    assert status == 401
    assert page.hostname not in str(headers), "its name is told to nobody without the token"
    other = {"Host": f"{'0' * 20}.localhost:{server.port}"}
    assert server.ask("GET", "/", token=None, headers=other)[0] == 421


def test_sessions_outlive_a_restart_and_the_page_gets_a_new_name(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    try:
        before = urlsplit(server.page).netloc
        _, headers, _ = server.ask("GET", f"/?token={TOKEN}", token=None, headers={"Host": before})
        session = cookie_of(headers)
        server.kill()
        server.start()
        after = urlsplit(server.page).netloc
        assert before != after
        assert server.ask("GET", "/api/runs", token=None, headers={"Host": before, **session})[0] == 200
        assert server.ask("GET", "/api/runs", token=None, headers={"Host": after, **session})[0] == 401
        kept = next(server.folder.rglob("sessions.json"))
        assert kept.stat().st_mode & 0o777 == 0o600
        assert session["Cookie"].partition("=")[2] not in kept.read_text()
    finally:
        server.close()


def test_bodies_are_bounded_whether_their_length_is_told_or_not(server: Server) -> None:
    big = b'{"host": "' + b"a" * (3 << 20) + b'"}'
    head = {"Content-Type": "application/json"}
    assert (
        server.ask("POST", "/api/runs", raw=b"{}", headers={**head, "Content-Length": str(1 << 40)})[0] == 413
    )
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        chunks = (big[at : at + 65536] for at in range(0, len(big), 65536))
        headers = {**head, "Authorization": f"Bearer {TOKEN}"}
        connection.request("POST", "/api/runs", chunks, headers, encode_chunked=True)
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # answered and hung up before all was sent
    finally:
        connection.close()
    assert status == 413


def test_a_wrong_profile_is_answered_with_every_problem_at_its_place(server: Server) -> None:
    text = "version: 1\nname: x\ndownlods: []\nlimits: {run: soon}\n"
    error = error_of(server.ask("POST", "/api/runs", {"host": "h", "profile_yaml": text}))
    assert error["class"] == "profile"
    assert [problem.split(" ")[0] for problem in error["problems"]] == [
        "profile.yaml:3:1:",
        "profile.yaml:4:15:",
    ]


@pytest.mark.parametrize("base", ["/etc/passwd", "../x.yaml", "./base.yaml", "~/x", "base.yml"])
def test_a_posted_profile_cannot_make_the_server_read_a_file(server: Server, base: str) -> None:
    status, _, body = server.ask(
        "POST", "/api/runs", {"host": "h", "profile_yaml": f"version: 1\nextends: [{base}]\n"}
    )
    assert status == 422
    assert json.loads(body)["error"]["problems"] == [
        "profile.yaml:2:11: `extends` takes names of built-in profiles here, no paths"
    ]


NO_KEY = {
    "class": "usage",
    "message": "`key` names no key of this server",
    "hint": "give the name of a file in its folder of keys: `provision serve --keys DIR`, else `keys` in its state directory",
}


@pytest.mark.parametrize(
    "key",
    [
        "/etc/passwd",
        "/nowhere",
        "~/.ssh/id_ed25519",
        "/etc",
        "../../../../etc/passwd",
        "a/../../..",
        "/",
        ".",
        "",
    ],
)
def test_a_key_outside_of_the_folder_of_keys_is_refused_whether_it_exists_or_not(
    server: Server, key: str
) -> None:
    answer = server.ask("POST", "/api/runs", {"host": "h", "profile_yaml": PROFILE, "key": key})
    assert answer[0] == 422
    if key not in ("", "~/.ssh/id_ed25519"):
        assert error_of(answer) == NO_KEY


def test_a_key_in_the_folder_of_keys_is_given_by_its_name(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    (tmp_path / "pool-key").write_text("a private key")
    server.start()
    try:
        body = {"host": "127.0.0.1", "port": closed_port(), "boot_grace": "1ms", "profile_yaml": PROFILE}
        server.post("/api/runs", {**body, "run_id": "a", "key": "pool-key"})
        server.post("/api/runs", {**body, "run_id": "b", "key": str(tmp_path / "pool-key")})
    finally:
        server.close()


WRONG_BODIES: dict[str, Any] = {
    "no object": [],
    "nothing": {},
    "both profiles": {"host": "h", "profile": "comfyui", "profile_yaml": PROFILE},
    "unknown field": {"host": "h", "profile": "comfyui", "workspac": "/x"},
    "path as profile": {"host": "h", "profile": "../../etc/passwd"},
    "unknown profile": {"host": "h", "profile": "nope"},
    "path as id": {"host": "h", "profile": "comfyui", "run_id": "../../x"},
    "port": {"host": "h", "profile": "comfyui", "port": 0},
    "host": {"host": "h; rm -rf /", "profile": "comfyui"},
    "timeout": {"host": "h", "profile": "comfyui", "timeout": "soon"},
    "workspace": {"host": "h", "profile": "comfyui", "workspace": "relative"},
    "key that is not there": {"host": "h", "profile": "comfyui", "key": "nowhere"},
    "key elsewhere": {"host": "h", "profile": "comfyui", "key": "/nowhere"},
    "secret that is not held": {"host": "h", "profile": "comfyui", "secrets": ["AWS_SECRET"]},
    "secret that nobody wants": {"host": "h", "profile_yaml": PROFILE, "secrets": {"X": "y"}},
    "workflow that is none": {"host": "h", "profile": "comfyui", "workflow": {"a": 1}},
    "half a surrogate": {"host": "h", "profile": "comfyui", "labels": {"a": "\ud800"}},
}


@pytest.mark.parametrize("body", WRONG_BODIES.values(), ids=list(WRONG_BODIES))
def test_a_body_that_cannot_mean_a_run_is_refused_with_a_reason(server: Server, body: Any) -> None:
    before = server.get("/api/runs")
    answer = server.ask("POST", "/api/runs", body)
    assert answer[0] in (400, 422), answer
    assert error_of(answer)["message"]
    assert server.get("/api/runs") == before


@pytest.mark.parametrize(
    "run", ["nope", "..", "../seed", "..%2f..%2fetc%2fpasswd", "%00", "a" * 300, "seed%0a", ".hidden", "%ff"]
)
def test_an_unknown_run_is_a_404_whatever_its_id_looks_like(server: Server, run: str) -> None:
    for rest in ("", "/events", "/log"):
        answer = server.ask("GET", f"/api/runs/{run}{rest}")
        assert answer[0] == 404, answer
        assert error_of(answer)["class"] == "not_found"


def test_a_second_server_on_one_state_directory_is_refused(server: Server) -> None:
    second = Server(server.folder)
    second.stderr = server.folder / "second.err"
    second._output = server.folder / "second.out"
    with pytest.raises(AssertionError, match="another `provision serve` uses"):
        second.start()


def test_the_server_may_open_as_many_files_as_many_runs_need(server: Server) -> None:
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert int(soft) == min(int(hard), 65536) or int(soft) > 65536


def operations(server: Server) -> Any:
    schema = schemathesis.openapi.from_url(
        f"http://127.0.0.1:{server.port}/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    return [result.ok() for result in schema.get_all_operations()]


def hammer(server: Server, examples: int) -> None:
    """Requests made of the OpenAPI document, well-formed and not, to known and unknown runs."""
    for operation in operations(server):

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            case=operation.as_strategy() | operation.as_strategy(generation_mode=NEGATIVE),
            known=st.booleans(),
        )
        def ask(case: Any, known: bool) -> None:
            if known and "run" in (case.path_parameters or {}):
                case.path_parameters["run"] = "seed"
            response = case.call(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
            assert response.status_code < 500, (case, response.text)
            case.validate_response(response, checks=CHECKS)

        ask()


NEGATIVE = schemathesis.GenerationMode.NEGATIVE
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# An alarm in the middle of a draw looks to hypothesis like data that differ from run to run ("data generation
# behaved differently"), so a busy machine gets time.
@pytest.mark.timeout(180)
def test_requests_made_of_the_openapi_document_never_break_the_server(server: Server) -> None:
    hammer(server, 30)

    assert server.get("/healthz") == {"status": "ok"}
    rooms = ("logs/", "state/provision/", "server.", "second.")
    assert all(name.startswith(rooms) for name in files_of(server.folder)), files_of(server.folder)
    assert "request_failed" not in server.stderr.read_text()


@pytest.mark.soak
def test_ten_thousand_requests_made_of_the_openapi_document_never_break_the_server(server: Server) -> None:
    hammer(server, 1000)

    assert server.get("/healthz") == {"status": "ok"}
    assert "request_failed" not in server.stderr.read_text()
    assert os.path.exists(f"/proc/{server.pid}")
