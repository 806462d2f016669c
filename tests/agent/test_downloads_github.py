"""Files of GitHub's releases: by the public link while that does, by the API with a token where it must."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from harness.downloads import Bench, quick
from harness.file_server import make_certificate
from harness.public_hosts import PublicHosts
from harness.source_stands import HOSTS, NAME, TOKEN, GitHubReleases, Storage, content
from provision_agent.contract.plan import Download
from provision_agent.contract.source_kinds import DEFAULT_SECRETS, is_known
from provision_agent.downloads.sources import addresses
from provision_agent.downloads.sources.lookup import Sources


@pytest.fixture(scope="module")
def certificate_of_all(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_certificate(str(tmp_path_factory.mktemp("github")), *HOSTS)


@pytest.fixture
def releases() -> GitHubReleases:
    files = {NAME: content(1).bytes(), "private.safetensors": content(2).bytes()}
    return GitHubReleases(Storage("release-assets.githubusercontent.com", files))


@pytest.fixture
def hosts(
    releases: GitHubReleases, certificate_of_all: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PublicHosts]:
    monkeypatch.setenv("SSL_CERT_FILE", certificate_of_all)
    with PublicHosts(releases.answer, certificate_of_all) as found:
        monkeypatch.setenv("https_proxy", found.proxy)
        yield found


def item(url: str, **more: str) -> Download:
    return Download(url=url, path=NAME, limits=quick(attempts=2), **more)


def with_token(bench: Bench, value: str = TOKEN) -> Bench:
    bench.rules, bench.secrets = DEFAULT_SECRETS, {"GITHUB_TOKEN": value}
    return bench


def test_a_public_file_needs_the_api_once_and_shows_no_token(bench: Bench, hosts: PublicHosts) -> None:
    one, other = item(f"github://owner/repo@v1/{NAME}"), item(f"github://owner/repo@v1/{NAME}")
    results = with_token(bench).fetch(one, Download(url=other.url, path="b.safetensors"))

    assert {result.state for result in results.values()} == {"ok"}
    assert [asked.path for asked in hosts.asked if asked.host == "api.github.com"] == [
        "/repos/owner/repo/releases/tags/v1"
    ]
    assert {asked.headers.get("authorization") for asked in hosts.asked} == {None}


def test_a_private_file_comes_by_the_api_and_the_storage_never_sees_the_token(
    bench: Bench, hosts: PublicHosts
) -> None:
    result = with_token(bench).fetch_one(item("github://owner/private@v1/private.safetensors"))

    assert result.state == "ok"
    assert bench.path(NAME).read_bytes() == content(2).bytes()
    assert {asked.host for asked in hosts.asked if TOKEN in str(asked.headers)} == {"api.github.com"}
    assert "release-assets.githubusercontent.com" in {asked.host for asked in hosts.asked}


def test_the_public_link_does_while_the_api_says_later(
    bench: Bench, hosts: PublicHosts, releases: GitHubReleases
) -> None:
    releases.limited = True

    assert bench.fetch_one(item(f"github://owner/repo@v1/{NAME}")).state == "ok"


def test_a_token_is_shown_where_the_api_says_later_without_one(
    bench: Bench, hosts: PublicHosts, releases: GitHubReleases
) -> None:
    releases.limited = True

    result = with_token(bench).fetch_one(item("github://owner/private@v1/private.safetensors"))

    assert result.state == "ok"


def test_latest_is_the_newest_release_and_says_which(bench: Bench, hosts: PublicHosts) -> None:
    url = f"github://owner/repo@latest/{NAME}"

    assert bench.fetch_one(item(url)).state == "ok"
    warnings = [str(event["message"]) for event in bench.events if event["event"] == "warning"]
    assert [f"`github://owner/repo@v2/{NAME}` keeps to that" in each for each in warnings] == [True]
    fetch = Sources((), {}).fetcher(time.monotonic() + 10)
    assert addresses.kind_for(url).pinned(url, fetch) == f"github://owner/repo@v2/{NAME}"


def test_a_release_whose_tag_is_latest_goes_before_the_newest(
    bench: Bench, hosts: PublicHosts, releases: GitHubReleases
) -> None:
    releases.tag = "latest"
    fetch = Sources((), {}).fetcher(time.monotonic() + 10)

    url = f"github://owner/repo@latest/{NAME}"
    chosen = addresses.kind_for(url).choose(url, fetch)

    assert chosen is not None
    assert (chosen.note, chosen.pinned) == ("", url)
    assert chosen.url == f"https://github.com/owner/repo/releases/download/latest/{NAME}"


BAD = {
    "a repository that is not there, or private": (
        "github://owner/none@v1/a.bin",
        "",
        "unauthorized",
        "`GITHUB_TOKEN`",
    ),
    "a token that may not see it": ("github://owner/private@v1/a.bin", "expired", "not_found", "may not see"),
    "a tag that is not there": (
        "github://owner/repo@v9/a.bin",
        "",
        "not_found",
        "https://github.com/owner/repo/releases",
    ),
    "a file that is spelt otherwise": ("github://owner/repo@v1/m.safetensor", "", "not_found", f"`{NAME}`"),
    "a file that is not there": ("github://owner/repo@v1/xyz", "", "not_found", f"`{NAME}`, `notes.txt`"),
    "a link into a private repository": (
        "https://github.com/owner/private/releases/download/v1/private.safetensors",
        "",
        "not_found",
        "`github://owner/private@v1/private.safetensors`",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_of_a_release_that_cannot_be_had_says_why(name: str, bench: Bench, hosts: PublicHosts) -> None:
    url, token, class_, hint = BAD[name]
    failure = (with_token(bench, token) if token else bench).fetch_one(item(url)).failure

    assert failure is not None
    assert failure.class_ == class_
    assert hint in failure.hint
    assert bench.files() == []


@pytest.mark.parametrize(
    "url",
    ["github://owner/repo/a.bin", "github://owner/repo@v1", "github://owner@v1/a.bin", "github://o/r@v1/"],
)
def test_a_release_without_its_tag_or_file_is_no_address(url: str) -> None:
    assert not is_known(url)


def test_a_tag_may_have_strokes() -> None:
    url = "github://o/r@release/v1.2/a b.bin"

    assert is_known(url)
    assert addresses.address_of(url) == "https://github.com/o/r/releases/download/release/v1.2/a%20b.bin"
