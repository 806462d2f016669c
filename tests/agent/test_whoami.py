"""Whom a token of the hub belongs to: valid, wrong or expired, of another kind, not to be found out; each is told apart."""

from __future__ import annotations

import json

import pytest
from harness.file_server import Content, Fault, FileServer
from provision_agent.commands.whoami import whoami

TOKEN = "hf_hush-hush"


def owned(role: str | None, **more) -> dict:
    token = {"displayName": "laptop", "role": role, **more}
    return {"type": "user", "name": "alice", "auth": {"type": "access_token", "accessToken": token}}


def fine(*permissions: str, gated: bool = False) -> dict:
    scoped = [{"entity": {"type": "user", "name": "alice"}, "permissions": list(permissions)}]
    return owned("fineGrained", fineGrained={"canReadGatedRepos": gated, "global": [], "scoped": scoped})


def asked(server: FileServer, answer: object, *faults: Fault):
    server.add("/api/whoami-v2", Content.of(json.dumps(answer).encode()), *faults)
    return whoami(TOKEN, {"HF_ENDPOINT": server.url("").rstrip("/")})


@pytest.mark.parametrize(
    ("answer", "state", "kind"),
    [
        (owned("read"), "valid", "read"),
        (owned("write"), "valid", "write"),
        (fine("repo.content.read"), "valid", "fineGrained"),
        (fine("inference.serverless.write", gated=True), "valid", "fineGrained"),
        (fine("inference.serverless.write", "discussion.write"), "other_kind", "fineGrained"),
        (fine(), "other_kind", "fineGrained"),
        ({"type": "user", "name": "alice", "auth": {"type": "oauth"}}, "other_kind", "oauth"),
        ({"name": "alice"}, "valid", ""),
    ],
    ids=str,
)
def test_a_good_token_is_told_with_its_owner_and_kind(server, answer, state, kind):
    told = asked(server, answer)

    assert (told.state, told.owner, told.kind) == (state, "alice", kind)
    [request] = server.seen("/api/whoami-v2")
    assert request.headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    "said", ["Invalid credentials in Authorization header", 'User Access Token "x" is expired']
)
def test_a_wrong_or_expired_token_is_told_in_the_hubs_words(server, said):
    told = asked(server, {}, Fault(status=401, body=json.dumps({"error": said}).encode()))

    assert told.state == "invalid"
    assert said[:20] in told.message.replace("\\", "")


@pytest.mark.parametrize("part", [TOKEN, TOKEN[:8], TOKEN[-8:]])
def test_words_of_the_hub_that_hold_a_part_of_the_token_are_not_repeated(server, part):
    told = asked(server, {}, Fault(status=401, body=f'{{"error": "{part} is expired"}}'.encode()))

    assert told.state == "invalid"
    assert "expired" not in told.message
    assert part not in str(told)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=429),
        Fault(redirect="/elsewhere"),
        Fault(end_after=3),
        Fault(content=Content.of(b"[1]")),
    ],
    ids=["in trouble", "later", "a redirect", "torn", "no answer"],
)
def test_an_answer_that_says_nothing_of_the_token_is_none(server, fault):
    told = asked(server, owned("read"), fault)

    assert told.state == "unreachable"
    assert len(server.requests) == 1, "a token follows no redirect"


def test_a_hub_that_cannot_be_reached_is_told_as_that():
    assert whoami(TOKEN, {"HF_ENDPOINT": "http://127.0.0.1:9"}).state == "unreachable"


def test_a_token_goes_to_no_hub_without_https_but_to_this_machine(server):
    told = whoami(TOKEN, {"HF_ENDPOINT": "http://hub.example.org"})

    assert (told.state, "without https" in told.message) == ("unreachable", True)
