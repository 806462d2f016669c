"""What plan, check and lock compute from a plan and what its sources said: sums, times, judgements, pins."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest
from provision_agent.contract.failures import FAILURES
from provision_agent.contract.findings import Disk, Present, Standing
from provision_agent.contract.plan import Download, Plan, Python, Repo, Substitute
from provision_agent.contract.plan_parts import Limits, SecretRule
from provision_collector.cli import main
from provision_collector.cli.check import _print_sources
from provision_collector.cli.plan import rate, screen
from provision_collector.errors import ProfileError, ProtocolFaultError
from provision_collector.planning.answers import Source, Survey
from provision_collector.planning.doctor import judged_machine
from provision_collector.planning.estimate import estimate_of
from provision_collector.planning.lock import apply_lock, lock_path, make_lock, read_lock
from provision_collector.planning.sources import exit_code, rows_of, seen_from_here

GOLDEN = Path(__file__).with_name("golden")
A, B = "a" * 64, "b" * 64
COMMIT = "c" * 40


def same_as_golden(name: str, text: str) -> None:
    """*text* is what the file holds; ``UPDATE_GOLDEN=1`` writes it anew, to be read in the diff."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def plan_of(*downloads: Download, **more: object) -> Plan:
    return Plan("p", downloads=downloads, **more)  # type: ignore[arg-type]


def said(*sources: Source, standing: Standing | None = None, rate: float | None = None) -> Survey:
    """One source for each download."""
    return Survey(tuple((source,) for source in sources), (), standing, rate)


def standing(
    *present: Present, unmet: tuple[str | None, ...] = (), free: int = 10**12, needed: int = 0
) -> Standing:
    disk = Disk("/w", free, needed_bytes=needed)
    return Standing("/w", True, {}, 0.0, present, unmet or (None,) * len(present), (), (disk,), {})


def ok(url: str = "https://h/x", **more: object) -> Source:
    return Source(url, "ok", **more)  # type: ignore[arg-type]


# -- plan


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*argv: str) -> str:
        try:
            main(argv)
        except SystemExit as exit_:
            assert not exit_.code
        return re.sub(r"[0-9a-f]{64}|\(plan [0-9a-f]{12}\)", "<hash>", capsys.readouterr().out)

    return run


def test_the_plan_fits_one_screen_and_reads_as_it_always_did(output: Callable[..., str], monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_TOKEN", raising=False)
    words = ("plan", str(GOLDEN / "plan.yaml"), "--offline", "--rate", "800Mbit", "--price", "0.5")

    text = output(*words)

    assert text.count("\n") <= 24
    same_as_golden("plan.txt", text)
    same_as_golden("plan.json", json.dumps(json.loads(output(*words, "--json")), indent=1) + "\n")


def test_bytes_that_are_there_are_not_fetched_again() -> None:
    items = [
        Download("https://h/x", f"{name}.bin", size_bytes=1000)
        for name in ("there", "part", "other", "absent", "not")
    ]
    present = [
        Present("there", 0),
        Present("partial", 400),
        Present("other", 1000),
        Present("absent", 1000),
        Present("absent", 1000),
    ]
    unmet = (None, None, None, None, "no GPU")

    found = estimate_of(plan_of(*items), said(*[ok()] * 5, standing=standing(*present, unmet=unmet)))

    assert [file.state for file in found.files] == ["there", "partial", "fetch", "fetch", "skipped"]
    assert (found.fetch_bytes, found.there_bytes, found.total_bytes) == (2400, 1600, 4000)


def test_a_size_that_nobody_knows_is_counted_not_guessed() -> None:
    found = estimate_of(
        plan_of(Download("https://h/x", "x"), Download("https://h/y", "y")), said(ok(), ok(size_bytes=7))
    )

    assert (found.unknown_sizes, found.fetch_bytes, found.files[0].size_bytes) == (1, 7, None)


def test_time_is_that_of_the_slower_of_line_and_limit_and_critical_files_come_first() -> None:
    items = (
        Download("https://h/x", "x", size_bytes=3000, level="critical"),
        Download("https://h/y", "y", size_bytes=7000),
    )
    plan = plan_of(*items, limits=Limits(rate_bytes_per_s=500))

    free = estimate_of(plan_of(*items), said(ok(), ok(), rate=1000.0), price_per_hour=36.0)
    capped = estimate_of(plan, said(ok(), ok()), rate_bytes_per_s=1000.0)
    unknown = estimate_of(plan, None, price_per_hour=1.0)

    assert (free.usable_s, free.complete_s, free.rate_is, free.cost) == (
        3.0,
        10.0,
        "measured",
        pytest.approx(0.1),
    )
    assert (capped.usable_s, capped.complete_s, capped.rate_is) == (6.0, 20.0, "given")
    assert (unknown.complete_s, unknown.cost, unknown.rate_is, unknown.fits) == (None, None, "unknown", None)


def test_an_instance_that_measured_nothing_is_not_to_be_asked_again_and_nothing_takes_no_time() -> None:
    small = estimate_of(
        plan_of(Download("https://h/x", "x", size_bytes=3000)),
        said(ok(), standing=standing(Present("absent", 3000))),
    )
    none = estimate_of(plan_of(), said(standing=standing()))

    words = [
        next(line for line in screen(each, host="h", width=99) if line.startswith("time"))
        for each in (small, none)
    ]

    assert "no file is large enough (8 MiB) to measure the line with" in words[0] and "--host" not in words[0]
    assert words[1] == "time      nothing is to be fetched"


def test_downloads_that_outlast_the_deadline_are_said(output: Callable[..., str]) -> None:
    words = ("plan", str(GOLDEN / "plan.yaml"), "--offline", "--rate")

    assert "deadline  too short: the run may take 30 m 00 s" in output(*words, "1MB")
    assert "deadline" not in output(*words, "100MB")


def test_a_file_that_no_source_gives_is_unavailable_and_its_token_is_named() -> None:
    rule = SecretRule("HF_TOKEN", ("huggingface.co",), ("HUB",))
    items = (
        Download("https://huggingface.co/a/b/resolve/main/x", "x"),
        Download("https://h/y", "y"),
        Download("https://h/z", "z"),
    )
    refused = Source(items[0].url, "gated", "a licence", "accept it")
    survey = said(refused, Source("https://h/y", "unreachable", "timed out"), ok(size_bytes=5))

    found = estimate_of(plan_of(*items, secrets=(rule,)), survey)
    with_token = estimate_of(plan_of(*items, secrets=(rule,)), survey, secrets=["HF_TOKEN"])

    assert [file.state for file in found.files] == ["unavailable", "fetch", "fetch"]
    assert [(secret.name, secret.files) for secret in found.secrets_missing] == [("HF_TOKEN", ("x",))]
    assert with_token.secrets_missing == ()
    mirrored = Survey(((refused, ok()), *survey.downloads[1:]), ())
    [secret] = estimate_of(
        plan_of(replace(items[0], mirrors=("https://m/x",)), *items[1:], secrets=(rule,)), mirrored
    ).secrets_missing
    assert secret.files == (), "a mirror gives it without a token"


def test_a_file_that_is_refused_for_good_gives_way_to_its_substitute() -> None:
    item = Download("https://h/x", "x.bin", size_bytes=9, substitute=Substitute("https://s/y", "y.bin"))
    survey = Survey(((Source("https://h/x", "gated"), ok("https://s/y", size_bytes=4)),), ())

    [file] = estimate_of(plan_of(item), survey).files

    assert (file.path, file.host, file.size_bytes, file.state) == ("y.bin", "s", 4, "fetch")
    assert "gated" in file.message


@pytest.mark.parametrize("class_", FAILURES)
def test_a_source_counts_as_gone_only_when_its_failure_would_not_pass(class_: str) -> None:
    survey = Survey(((Source("https://h/x", class_),),), ())

    [file] = estimate_of(plan_of(Download("https://h/x", "x")), survey).files

    assert file.state == ("fetch" if FAILURES[class_].is_retriable else "unavailable")


def test_a_disk_that_is_too_small_is_said() -> None:
    items = (Download("https://h/x", "x", size_bytes=1000),)
    survey = said(ok(), standing=standing(Present("absent", 1000), free=900, needed=1010))

    assert estimate_of(plan_of(*items), survey).fits is False


def test_a_disk_that_nothing_is_needed_on_is_not_told_of() -> None:
    survey = said(ok(), standing=standing(Present("verified", 0), free=900, needed=0))
    found = estimate_of(plan_of(Download("https://h/x", "x", size_bytes=1000)), survey)

    assert [line for line in screen(found, host="h", width=80) if line.startswith("disk")] == []


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("800Mbit", 1e8),
        ("1Gbps", 1.25e8),
        ("1.5Gbit/s", 1.875e8),
        ("80MB", 8e7),
        ("300MiB/s", 300 * 2**20),
        ("5000", 5000),
    ],
)
def test_a_rate_may_be_written_as_lines_are_sold(text: str, bytes_per_s: float) -> None:
    assert rate(text) == bytes_per_s


@pytest.mark.parametrize("text", ["fast", "0", "800mbit", "-1MB", "0Mbit", ""])
def test_a_rate_that_could_mean_two_things_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        rate(text)


# -- check --online


def test_the_table_of_sources_reads_as_it_always_did(capsys: pytest.CaptureFixture[str]) -> None:
    items = (
        Download("https://h/good", "good.bin", size_bytes=5, sha256=A, level="critical"),
        Download("https://h/short", "short.bin", size_bytes=5, mirrors=("https://m/short",)),
        Download(
            "https://h/other",
            "other.bin",
            sha256=A,
            level="optional",
            substitute=Substitute("https://s/x", "x"),
        ),
    )
    repo = Repo("https://github.com/a/b", "b", ref="v1")
    downloads = (
        (ok("https://h/good", size_bytes=5, sha256=A),),
        (ok("https://h/short", size_bytes=4), Source("https://m/short", "stalled", "no answer within 30 s")),
        (ok("https://h/other", sha256=B), ok("https://s/x", sha256=B)),
    )
    missing = Source(repo.url, "not_found", "`v1` is no branch, tag or commit of it", "correct `ref`")

    rows = rows_of(plan_of(*items, repos=(repo,)), Survey(downloads, ((missing,),)))
    _print_sources(rows)

    same_as_golden("check.txt", capsys.readouterr().out)
    assert exit_code(rows) == 5


def test_the_exit_code_is_that_of_the_worst_item_without_a_good_source() -> None:
    def code(*pairs: tuple[str, str]) -> int:
        items = [
            Download(f"https://h/{number}", str(number), level=level)
            for number, (level, _) in enumerate(pairs)
        ]
        return exit_code(
            rows_of(plan_of(*items), said(*(Source("https://h/x", class_) for _, class_ in pairs)))
        )

    assert code(("critical", "ok"), ("optional", "not_found")) == 0
    assert code(("required", "gated"), ("critical", "ok")) == 5
    assert code(("required", "gated"), ("critical", "unreachable")) == 1


def test_what_lies_on_the_instances_disk_is_not_asked_for_here() -> None:
    repo = Repo("file:///srv/a", "a", level="critical")
    here = rows_of(plan_of(repos=(repo,)), Survey((), ((Source(repo.url, "not_found", "no commit"),),)))

    [row] = seen_from_here(here)

    assert (row.state, row.host, exit_code([row]), exit_code(here)) == ("not asked", "its disk", 0, 1)
    assert "only the instance can tell" in row.message


# -- lock


def locked(plan: Plan, survey: Survey) -> Plan:
    lock, unpinned = make_lock(plan, survey)
    assert unpinned == []
    return apply_lock(plan, type(lock).model_validate_json(lock.to_text()), where=Path("p.lock.json"))


def test_a_lock_pins_url_size_hash_commit_and_the_name_that_the_server_gave() -> None:
    item = Download(
        "https://h/main/x", "loras/", mirrors=("https://m/x",), substitute=Substitute("https://s/x", "s")
    )
    repo = Repo("https://github.com/a/b", "b", ref="main")
    good = ok("https://h/main/x", size_bytes=5, sha256=A, name="x.bin", pinned_url="https://h/commit/x")
    survey = Survey(((good, Source("https://m/x", "unreachable")),), ((ok(repo.url, commit=COMMIT),),))

    plan = locked(plan_of(item, repos=(repo,)), survey)

    assert plan.downloads == (
        replace(item, url="https://h/commit/x", path="loras/x.bin", size_bytes=5, sha256=A, substitute=None),
    )
    assert plan.repos == (replace(repo, ref=COMMIT),)


def test_what_stands_on_the_instance_counts_before_what_the_sources_say() -> None:
    item = Download("https://h/x", "x", mirrors=("https://m/x",))
    survey = Survey(
        ((ok("https://h/x", size_bytes=9, sha256=B), ok("https://m/x", size_bytes=5, sha256=A)),), ()
    )
    there = replace(standing(Present("there", 0, 5, A)), commits=())

    plan = locked(plan_of(item), replace(survey, standing=there))

    assert (plan.downloads[0].url, plan.downloads[0].sha256, plan.downloads[0].size_bytes) == (
        "https://m/x",
        A,
        5,
    )


@pytest.mark.parametrize(
    ("item", "source", "why"),
    {
        "no hash anywhere": (Download("https://h/x", "x"), ok(size_bytes=5), "no source tells its sha256"),
        "another hash": (
            Download("https://h/x", "x", sha256=A, size_bytes=5),
            ok(sha256=B),
            "another sha256",
        ),
        "nobody answers": (
            Download("https://h/x", "x"),
            Source("https://h/x", "gated", "a licence"),
            "a licence",
        ),
        "no name": (Download("https://h/x", "x/", sha256=A, size_bytes=5), ok(), "no source tells its name"),
    }.values(),
)
def test_what_cannot_be_pinned_is_named_with_its_reason(item: Download, source: Source, why: str) -> None:
    lock, unpinned = make_lock(plan_of(item), said(source))

    assert lock.downloads == ()
    assert [(each.item, why in each.message) for each in unpinned] == [(item.label, True)]


def test_an_optional_item_that_cannot_be_pinned_is_left_out_of_the_lock_and_of_a_locked_run() -> None:
    """One unreachable optional repo, or file, keeps nobody from locking the rest."""
    item = Download("https://h/x", "x")
    extra = Download("https://h/y", "y", level="optional")
    repo = Repo("https://github.com/a/b", "b", ref="main")
    gone = Repo("https://github.com/a/c", "c", ref="main", level="optional")
    survey = Survey(
        ((ok(size_bytes=5, sha256=A),), (Source("https://h/y", "gated", "a licence"),)),
        ((ok(commit=COMMIT),), (Source(gone.url, "unreachable", "no route"),)),
    )
    plan = plan_of(item, extra, repos=(repo, gone))

    lock, unpinned = make_lock(plan, survey)
    read = type(lock).model_validate_json(lock.to_text())
    there = apply_lock(plan, read, where=Path("p.lock.json"))

    assert [(each.item, each.message, each.is_optional) for each in unpinned] == [
        ("y", "a licence", True),
        ("c", "no route", True),
    ]
    assert [each.path for each in (*there.downloads, *there.repos)] == ["x", "b"]
    assert read.warnings == ["the lock leaves `y` out: a licence", "the lock leaves `c` out: no route"]
    wanted = replace(plan, repos=(repo, replace(gone, level="required")))
    with pytest.raises(ProfileError) as error:
        apply_lock(wanted, read, where=Path("p.lock.json"))
    assert "the repo `c`" in error.value.problems[0]


@pytest.mark.parametrize("level", ["critical", "required"])
def test_a_critical_or_required_item_that_cannot_be_pinned_is_never_left_out(level: str) -> None:
    lock, unpinned = make_lock(plan_of(Download("https://h/x", "x", level=level)), said(ok(size_bytes=5)))

    assert (lock.left_out, [each.is_optional for each in unpinned]) == ((), [False])


def test_a_lock_without_anything_left_out_is_what_earlier_versions_read() -> None:
    lock, _ = make_lock(plan_of(Download("https://h/x", "x", size_bytes=5, sha256=A)), said(ok()))

    assert "left_out" not in lock.to_text()


def test_a_file_that_the_profile_pins_itself_needs_no_answer() -> None:
    item = Download("https://h/x", "x", size_bytes=5, sha256=A)

    assert locked(plan_of(item), said(Source("https://h/x", "unreachable"))).downloads == (item,)


def test_a_lock_and_a_profile_that_disagree_are_refused_with_every_difference() -> None:
    item = Download("https://h/x", "x", size_bytes=5, sha256=A)
    repo = Repo("https://github.com/a/b", "b", ref=COMMIT)
    lock, _ = make_lock(plan_of(item, repos=(repo,)), Survey(((ok(),),), ((ok(commit=COMMIT),),)))
    other = plan_of(replace(item, sha256=B), Download("https://h/y", "y"), repos=(replace(repo, ref="main"),))

    with pytest.raises(ProfileError) as error:
        apply_lock(other, lock, where=Path("p.lock.json"))

    assert len(error.value.problems) == 4
    assert all(
        line.startswith("p.lock.json:1:1: ") and "provision lock" in line for line in error.value.problems
    )


@pytest.mark.parametrize(
    "text", ["", "{", '{"format": 2}', '{"format": 1, "profile": "p", "downloads": 3, "repos": []}']
)
def test_a_lock_that_is_none_is_a_wrong_profile(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.lock.json").write_text(text)

    with pytest.raises(ProfileError):
        read_lock(tmp_path / "x.lock.json")


def test_a_lock_lies_beside_its_profile() -> None:
    assert lock_path("a/b.yaml") == Path("a/b.lock.json")
    assert lock_path("./c.yml") == Path("c.lock.json")
    assert lock_path("comfyui") == Path("comfyui.lock.json")


# -- doctor


def doctor_says(**facts: object) -> dict[str, str]:
    """The state of each thing that `doctor` judges by the facts of an instance."""
    here = replace(standing(), facts=facts)
    found = judged_machine(Plan("p", python=Python()), here, now_unix=0.0, took_s=0.1)
    return {finding.name: finding.state for finding in found}


def test_doctor_wants_a_python_that_todays_torch_runs_on() -> None:
    assert doctor_says(pythons=[{"path": "/p", "version": "3.9.2"}])["python"] == "failed"
    assert (
        doctor_says(pythons=[{"path": "/p", "version": "3.9"}, {"path": "/q", "version": "3.12.1"}])["python"]
        == "ok"
    )


@pytest.mark.parametrize("version", ["", "three", "3", "3.x", "9" * 60])
def test_a_version_that_is_none_is_no_python_and_breaks_nothing(version: str) -> None:
    assert doctor_says(pythons=[{"path": "/p", "version": version}])["python"] == "failed"


def test_a_card_without_a_known_memory_is_a_card() -> None:
    assert doctor_says(gpus=[{"name": "H100", "memory_bytes": None}])["gpu"] == "ok"


@pytest.mark.parametrize("facts", [{"gpus": "many"}, {"pythons": [1]}, {"disks": {"path": "/"}}], ids=str)
def test_facts_of_another_shape_are_the_instances_fault(facts: dict[str, object]) -> None:
    with pytest.raises(ProtocolFaultError, match="cannot be understood"):
        doctor_says(**facts)
