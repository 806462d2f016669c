"""The table of what each kind of source offers: every cell is held against a server that behaves as the real one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from harness.downloads import Bench, quick
from harness.file_server import make_certificate
from harness.public_hosts import PublicHosts
from harness.source_stands import HOSTS, NAME, STANDS, TOKEN, Stand, content
from provision_agent.contract import source_kinds
from provision_agent.contract.failures import next_of_kinds
from provision_agent.contract.plan import Download
from provision_agent.contract.plan_parts import Limits, SecretRule
from provision_agent.contract.source_kinds import DEFAULT_SECRETS, SOURCE_KINDS, Offers
from provision_agent.downloads.sources import addresses, repositories
from provision_agent.downloads.sources.answer import HEAD_BYTES
from provision_agent.downloads.sources.lookup import Sources
from provision_agent.downloads.sources.signed import SIGNED


@pytest.fixture(scope="module")
def certificate_of_all(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_certificate(str(tmp_path_factory.mktemp("stands")), *HOSTS)


class Trial:
    """One kind beside its stand."""

    def __init__(self, kind: str, stand: Stand, hosts: PublicHosts, bench: Bench) -> None:
        self.kind, self.stand, self.hosts, self.bench = kind, stand, hosts, bench
        self.offers = SOURCE_KINDS[kind].offers
        SIGNED.clear()
        self.sign()

    def sign(self, *, is_private: bool = False) -> None:
        """As the user's machine does, at first and whenever it is asked."""
        sign = self.stand.sign
        if sign is not None:
            SIGNED.take(sign(is_private))
            self.bench.context = replace(
                self.bench.context, ask_for=lambda url: SIGNED.take(sign(is_private))
            )

    def item(self, url: str) -> Download:
        return Download(url=url, path=NAME, limits=quick(attempts=2))

    def fetched(self, url: str = "") -> tuple[str, str]:
        """State and class of failure."""
        result = self.bench.fetch(self.item(url or self.stand.url), limits=Limits(connections=2))[NAME]
        return result.state, result.failure.class_ if result.failure else ""

    def is_right(self, seed: int = 1) -> bool:
        return self.bench.path(NAME).read_bytes() == content(seed).bytes()

    def starts(self) -> set[int]:
        """Where the ranges began that were asked for."""
        ranges = (asked.headers.get("range", "") for asked in self.hosts.asked)
        return {int(each[len("bytes=") :].partition("-")[0]) for each in ranges if each}

    # -- one method for each column

    def login(self) -> None:
        rules = [*DEFAULT_SECRETS, SecretRule(self.stand.secret or "OTHER", self.stand.secret_hosts)]
        if not self.offers.login:
            self.bench.rules, self.bench.secrets = rules, {rule.name: TOKEN for rule in rules}
            assert self.fetched() == ("ok", "")
            assert {asked.headers.get("authorization") for asked in self.hosts.asked} == {None}
            return
        if not self.stand.secret:
            assert self.fetched(self.stand.private_url) == ("failed", "unauthorized")
            self.sign(is_private=True)
            assert self.fetched(self.stand.private_url) == ("ok", "")
            assert self.is_right(2)
            return
        own = [rule for rule in rules if rule.name == self.stand.secret][:1]
        self.bench.rules = own
        state, class_ = self.fetched(self.stand.private_url)
        assert (state, class_ in ("unauthorized", "gated", "not_found")) == ("failed", True)
        assert self.bench.files() == []

        self.bench.secrets = {self.stand.secret: TOKEN}
        assert self.fetched(self.stand.private_url) == ("ok", "")
        assert self.is_right(2)
        shown = {asked.host for asked in self.hosts.asked if TOKEN in str(asked.headers)}
        assert shown <= set(own[0].hosts)
        assert TOKEN not in str(self.bench.events)

    def ranges(self) -> None:
        assert self.offers.ranges
        self.stand.storage.cuts = 1
        assert self.fetched() == ("ok", "")
        assert self.is_right()
        assert max(self.starts()) >= 64 * 1024

    def hash(self) -> None:
        self.stand.storage.is_wrong = True
        expected = ("failed", "checksum") if self.offers.hash else ("ok", "")
        assert self.fetched() == expected
        assert self.bench.files() == ([] if self.offers.hash else [NAME])

    def listing(self) -> None:
        forms = SOURCE_KINDS[self.kind].forms
        assert any(form.many for form in forms) == bool(self.offers.listing)
        assert (addresses.kind_for(self.stand.url).listing(self.stand.url)) is None
        if not self.offers.listing:
            return
        assert source_kinds.means_many_files(self.stand.many_url)
        item = Download(url=self.stand.many_url, path="all/", limits=quick(attempts=2))
        files, unlisted = repositories.expand([item], Sources((), {}), self.bench.context)
        assert not unlisted
        results = self.bench.fetch(*files)
        assert {result.state for result in results.values()} == {"ok"}
        found = {each: self.bench.path(f"all/{each}").read_bytes() for each in self.stand.many}
        assert found == dict(self.stand.many)

    def renewal(self) -> None:
        storage = self.stand.storage
        if not self.offers.renewal:
            assert self.fetched() == ("ok", "")
            assert storage.signed == 0
            return
        storage.expires = True
        assert self.fetched() == ("ok", "")
        assert self.is_right()
        assert storage.signed >= 4, "each of its addresses brought a quarter"
        assert sum(start == 0 for start in self.long_starts()) == 1, "what had landed was not asked for again"

    def long_starts(self) -> list[int]:
        """Where ranges began on the storage that were no look-ups."""
        found = []
        for asked in self.hosts.asked:
            first, _, last = asked.headers.get("range", "")[len("bytes=") :].partition("-")
            is_alive = asked.host == self.stand.storage.host
            if is_alive and first and (not last or int(last) - int(first) > 4096):
                found.append(int(first))
        return found


CELLS = [(kind, column) for kind in SOURCE_KINDS if kind != "local" for column in Offers._fields]


@pytest.mark.parametrize(("kind", "column"), CELLS)
def test_a_kind_of_source_offers_what_the_table_says(
    kind: str, column: str, bench: Bench, certificate_of_all: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = STANDS[kind]()
    monkeypatch.setenv("SSL_CERT_FILE", certificate_of_all)
    with PublicHosts(stand.answer, certificate_of_all) as hosts:
        monkeypatch.setenv("https_proxy", hosts.proxy)
        getattr(Trial(kind, stand, hosts, bench), column)()


BAD = {
    "a file that the hub has not": (
        "hugging_face",
        "hf://owner/repo/m.safetensor",
        "not_found",
        "fix_profile",
    ),
    "a revision that the hub has not": (
        "hugging_face",
        f"hf://owner/repo@v9/{NAME}",
        "not_found",
        "fix_profile",
    ),
    "a repository that the hub has not": (
        "hugging_face",
        f"hf://owner/none/{NAME}",
        "not_found",
        "fix_profile",
    ),
    "a token that the hub refuses": (
        "hugging_face",
        "hf://owner/repo/private.safetensors",
        "gated",
        "fix_credentials",
    ),
    "a version that Civitai has not": ("civitai", "civitai:9", "not_found", "fix_profile"),
    "a token that Civitai refuses": ("civitai", "civitai:2", "unauthorized", "fix_credentials"),
    "a file that is not shared": (
        "google_drive",
        "https://drive.google.com/file/d/NONE",
        "not_a_model",
        "fix_profile",
    ),
    "a token that a site refuses": (
        "http",
        "https://files.example.org/private.safetensors",
        "unauthorized",
        "fix_credentials",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_had_has_a_class_a_hint_and_a_next_step(
    name: str, bench: Bench, certificate_of_all: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, url, class_, following = BAD[name]
    stand = STANDS[kind]()
    monkeypatch.setenv("SSL_CERT_FILE", certificate_of_all)
    bench.rules = [SecretRule(stand.secret, stand.secret_hosts)] if stand.secret else []
    bench.secrets = {stand.secret: "of-last-year"} if stand.secret else {}
    with PublicHosts(stand.answer, certificate_of_all) as hosts:
        monkeypatch.setenv("https_proxy", hosts.proxy)
        failure = bench.fetch_one(Download(url=url, path=NAME, limits=quick(attempts=2))).failure

    assert failure is not None
    assert (failure.class_, next_of_kinds([(failure.class_, failure.case)])) == (class_, following)
    assert len(failure.hint) > 20
    assert bench.files() == []


@pytest.mark.parametrize("kind", sorted(STANDS))
def test_every_question_is_put_once_for_a_file_however_many_answers_bring_it(
    kind: str, bench: Bench, certificate_of_all: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = STANDS[kind]()
    stand.storage.cuts = 2  # so that there is more than one answer
    monkeypatch.setenv("SSL_CERT_FILE", certificate_of_all)
    with PublicHosts(stand.answer, certificate_of_all) as hosts:
        monkeypatch.setenv("https_proxy", hosts.proxy)
        trial = Trial(kind, stand, hosts, bench)
        item = Download(url=stand.url, path=NAME)
        results = bench.fetch_as_runs_do(item, limits=Limits(connections=16))

    assert results[NAME].state == "ok"
    questions = Counter((a.host, a.path) for a in hosts.asked if a.host != stand.storage.host)
    assert set(questions.values()) <= {1}, questions
    lookups = [asked for asked in hosts.asked if asked.headers.get("range") == f"bytes=0-{HEAD_BYTES - 1}"]
    assert sum(asked.host == stand.storage.host for asked in lookups) == 1
    assert len(trial.long_starts()) >= 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_an_address_that_has_expired_is_asked_for_anew_whatever_its_storage_answers(
    status: int, bench: Bench, certificate_of_all: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = STANDS["http"]()
    stand.storage.status = status
    monkeypatch.setenv("SSL_CERT_FILE", certificate_of_all)
    with PublicHosts(stand.answer, certificate_of_all) as hosts:
        monkeypatch.setenv("https_proxy", hosts.proxy)
        Trial("http", stand, hosts, bench).renewal()


def test_an_address_that_expired_while_the_file_waited_is_asked_for_anew(
    bench: Bench, certificate_of_all: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = STANDS["github"]()
    monkeypatch.setenv("SSL_CERT_FILE", certificate_of_all)
    with PublicHosts(stand.answer, certificate_of_all) as hosts:
        monkeypatch.setenv("https_proxy", hosts.proxy)
        engine = bench.engine(Download(url=stand.url, path=NAME, limits=quick(attempts=2)))
        try:
            engine.preflight()
            stand.storage.dead.update(str(number) for number in range(1, stand.storage.signed + 1))
            engine.start()
            assert engine.wait()
        finally:
            engine.stop()

        assert engine.results()[NAME].state == "ok"
        assert bench.named("retried") == [], "that is nobody's failure"


def test_a_file_of_this_disk_is_copied_and_asks_nobody(bench: Bench, tmp_path: Path) -> None:
    offers = SOURCE_KINDS["local"].offers
    source = tmp_path / "source.safetensors"
    source.write_bytes(content(1).bytes())

    result = bench.fetch_one(Download(url=f"file://{source}", path=f"copies/{NAME}"))

    assert result.state == "ok"
    assert bench.path(f"copies/{NAME}").read_bytes() == content(1).bytes()
    assert offers == Offers(ranges="it is copied")
