"""Checkouts, with the real git, from files and over smart and dumb HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from harness.environments import Surroundings
from harness.git_server import GitServer, Origin, git
from harness.tcp_proxy import TcpProxy
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Repo
from provision_agent.steps import repos


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    monkeypatch.setattr(repos, "ROUNDS", replace(repos.ROUNDS, base_s=0.01))
    return Surroundings(str(tmp_path / "workspace"))


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    made = Origin(str(tmp_path / "origins" / "ui"))
    made.commit({"main.py": "1\n", "nodes/a.py": "a\n"})
    return made


@pytest.fixture
def server(origin: Origin) -> Iterator[GitServer]:
    with GitServer(os.path.dirname(origin.path)) as server:
        yield server


def read(here: Surroundings, path: str) -> str:
    return Path(here.workspace, path).read_text()


def test_a_checkout_goes_into_a_folder_that_already_holds_partial_downloads(
    origin: Origin, here: Surroundings
) -> None:
    part = here.write("ui/models/big.safetensors.part", "half")

    commit = repos.checkout(Repo(url=origin.url, path="ui"), here.context)

    assert commit == git(origin.path, "rev-parse", "HEAD")
    assert read(here, "ui/main.py") == "1\n"
    assert Path(part).read_text() == "half"
    assert here.names() == ["repo_started", "repo_finished"]
    assert (
        git(os.path.join(here.workspace, "ui"), "rev-parse", "--abbrev-ref", "HEAD@{upstream}")
        == "origin/main"
    )


def test_branch_tag_commit_and_short_commit_all_name_what_they_name_elsewhere(
    origin: Origin, here: Surroundings
) -> None:
    first = git(origin.path, "rev-parse", "HEAD")
    origin.tag("v1")
    second = origin.commit({"main.py": "2\n"})
    git(origin.path, "branch", "dev")

    wanted = {
        "v1": first,
        "main": second,
        first: first,
        second[:8]: second,
        "dev": second,
        "refs/heads/main": second,
    }
    got = {ref: repos.checkout(Repo(url=origin.url, path="ui", ref=ref), here.context) for ref in wanted}

    assert got == wanted


@pytest.mark.parametrize("ref", [None, "v1", "commit"])
@pytest.mark.parametrize("kind", ["smart", "dumb"])
def test_http_servers_of_both_kinds_can_be_cloned_at_any_ref(
    kind: str, ref: str | None, origin: Origin, server: GitServer, here: Surroundings
) -> None:
    first = git(origin.path, "rev-parse", "HEAD")
    origin.tag("v1")
    second = origin.commit({"main.py": "2\n"})
    url = server.smart("ui") if kind == "smart" else server.dumb("ui")

    commit = repos.checkout(Repo(url=url, path="ui", ref=first if ref == "commit" else ref), here.context)

    assert commit == (second if ref is None else first)
    is_shallow = git(os.path.join(here.workspace, "ui"), "rev-parse", "--is-shallow-repository")
    assert is_shallow == ("true" if kind == "smart" else "false")


def test_a_pinned_commit_that_is_there_asks_nobody(
    origin: Origin, server: GitServer, here: Surroundings
) -> None:
    repo = Repo(url=server.smart("ui"), path="ui", ref=git(origin.path, "rev-parse", "HEAD"))
    repos.checkout(repo, here.context)
    asked = len(server.requests)

    repos.checkout(repo, here.context)

    assert len(server.requests) == asked
    assert here.of("repo_skipped")[0]["reason"] == "verified"


def test_a_branch_that_moved_is_followed(origin: Origin, here: Surroundings) -> None:
    repo = Repo(url=origin.url, path="ui")
    repos.checkout(repo, here.context)
    second = origin.commit({"main.py": "2\n"})

    assert repos.checkout(repo, here.context) == second
    assert read(here, "ui/main.py") == "2\n"


def test_local_changes_are_left_as_they_are_with_a_warning(origin: Origin, here: Surroundings) -> None:
    repo = Repo(url=origin.url, path="ui")
    first = repos.checkout(repo, here.context)
    here.write("ui/main.py", "mine\n")
    origin.commit({"main.py": "2\n"})

    assert repos.checkout(repo, here.context) == first
    assert read(here, "ui/main.py") == "mine\n"
    assert "main.py" in here.of("warning")[0]["message"]
    assert here.of("repo_skipped")[0]["reason"] == "local changes"


def test_commits_of_ones_own_are_left_as_they_are_with_a_warning(origin: Origin, here: Surroundings) -> None:
    repo = Repo(url=origin.url, path="ui")
    repos.checkout(repo, here.context)
    folder = os.path.join(here.workspace, "ui")
    here.write("ui/main.py", "mine\n")
    git(folder, "commit", "--quiet", "--all", "--message=mine")
    mine = git(folder, "rev-parse", "HEAD")
    origin.commit({"main.py": "2\n"})

    assert repos.checkout(repo, here.context) == mine
    assert "known to no remote" in here.of("warning")[0]["message"]


def test_other_files_under_the_same_names_are_not_overwritten(origin: Origin, here: Surroundings) -> None:
    here.write("ui/main.py", "mine\n")

    with pytest.raises(Failure) as caught:
        repos.checkout(Repo(url=origin.url, path="ui"), here.context)

    assert caught.value.class_ == "conflict"
    assert "`main.py`" in caught.value.message
    assert read(here, "ui/main.py") == "mine\n"


def test_the_same_files_without_a_repository_become_a_checkout(origin: Origin, here: Surroundings) -> None:
    here.write("ui/main.py", "1\n")

    repos.checkout(Repo(url=origin.url, path="ui"), here.context)

    assert read(here, "ui/nodes/a.py") == "a\n"


def half_without_head(folder: str, origin: Origin) -> None:
    os.makedirs(os.path.join(folder, ".git", "objects"))


def half_without_commit(folder: str, origin: Origin) -> None:
    os.makedirs(folder)
    git(folder, "init", "--quiet")


def half_without_files(folder: str, origin: Origin) -> None:
    git(os.path.dirname(folder), "clone", "--quiet", "--no-checkout", origin.url, folder)


def half_with_half_a_file(folder: str, origin: Origin) -> None:
    git(os.path.dirname(folder), "clone", "--quiet", "--no-checkout", origin.url, folder)
    Path(folder, ".git", "index.lock").touch()
    Path(folder, "main.py").write_text("")


@pytest.mark.parametrize(
    "leave", [half_without_head, half_without_commit, half_without_files, half_with_half_a_file]
)
def test_a_half_made_clone_is_found_and_done_again(leave: object, origin: Origin, here: Surroundings) -> None:
    assert callable(leave)
    leave(os.path.join(here.workspace, "ui"), origin)

    commit = repos.checkout(Repo(url=origin.url, path="ui"), here.context)

    assert commit == git(origin.path, "rev-parse", "HEAD")
    assert read(here, "ui/main.py") == "1\n"
    assert git(os.path.join(here.workspace, "ui"), "status", "--porcelain", "--untracked-files=no") == ""


def test_our_own_checkout_that_was_killed_half_way_is_done_again(origin: Origin, here: Surroundings) -> None:
    repo = Repo(url=origin.url, path="ui", ref=git(origin.path, "rev-parse", "HEAD"))
    repos.checkout(repo, here.context)
    folder = Path(here.workspace, "ui")
    (folder / ".git" / repos.MARKER).touch()
    (folder / "main.py").write_text("")
    (folder / "nodes" / "a.py").unlink()

    repos.checkout(repo, here.context)

    assert (read(here, "ui/main.py"), read(here, "ui/nodes/a.py")) == ("1\n", "a\n")
    assert not (folder / ".git" / repos.MARKER).exists()


def test_a_mirror_stands_in_when_the_first_source_is_down_or_gone(
    origin: Origin, server: GitServer, here: Surroundings
) -> None:
    server.statuses["/dumb/down"] = 503
    repo = Repo(url=server.dumb("down"), mirrors=(server.dumb("gone"), server.smart("ui")), path="ui")

    assert repos.checkout(repo, here.context) == git(origin.path, "rev-parse", "HEAD")
    assert here.of("repo_retried") == []


def test_a_server_in_trouble_is_asked_again_and_a_missing_repository_is_not(
    server: GitServer, here: Surroundings
) -> None:
    server.statuses["/smart/ui"] = 503
    with pytest.raises(Failure) as down:
        repos.checkout(Repo(url=server.smart("ui"), path="ui"), here.context)
    tried = len(here.of("repo_retried"))
    with pytest.raises(Failure) as gone:
        repos.checkout(Repo(url=server.dumb("gone"), path="gone"), here.context)

    assert (down.value.class_, tried) == ("upstream_down", 2)
    assert (gone.value.class_, len(here.of("repo_retried"))) == ("not_found", 2)


def test_a_host_that_cannot_be_reached_is_waited_for_and_its_repositories_share_the_waits(
    origin: Origin, server: GitServer, tmp_path: Path
) -> None:
    here = Surroundings(str(tmp_path / "patient"), patience_s=30.0)
    line = TcpProxy(("127.0.0.1", urlsplit(server.smart("ui")).port or 0))
    line.refuse()
    down = f"http://127.0.0.1:{line.port}/smart/ui"
    report = here.context.report

    def heal(event: str, **fields: Any) -> None:
        report(event, **fields)
        if event == "repo_retried" and fields["attempt"] == 3:
            line.accept()

    context = replace(here.context, report=heal)
    try:
        with ThreadPoolExecutor(4) as pool:
            paths = [f"ui{number}" for number in range(4)]
            commits = set(pool.map(lambda path: repos.checkout(Repo(url=down, path=path), context), paths))
    finally:
        line.close()

    assert commits == {git(origin.path, "rev-parse", "HEAD")}
    assert {fields["class"] for fields in here.of("repo_retried")} == {"unreachable"}
    assert len(here.of("repo_retried")) <= 4 + 3


def test_a_mirror_is_asked_at_once_when_the_first_host_cannot_be_reached(
    origin: Origin, server: GitServer, tmp_path: Path
) -> None:
    here = Surroundings(str(tmp_path / "patient"), patience_s=60.0)
    repo = Repo(url="http://127.0.0.1:9/ui", mirrors=(server.smart("ui"),), path="ui")

    assert repos.checkout(repo, here.context) == git(origin.path, "rev-parse", "HEAD")
    assert len(here.of("repo_retried")) == 1


def test_a_checkout_that_is_there_stays_without_a_wait_when_its_host_cannot_be_reached(
    origin: Origin, server: GitServer, tmp_path: Path
) -> None:
    here = Surroundings(str(tmp_path / "patient"), patience_s=60.0)
    repo = Repo(url=server.smart("ui"), path="ui")
    commit = repos.checkout(repo, here.context)
    server.stop()

    assert repos.checkout(repo, here.context) == commit
    assert here.of("repo_retried") == []


def test_a_repository_behind_a_password_fails_at_once_and_never_asks(
    server: GitServer, here: Surroundings
) -> None:
    server.statuses["/smart/private"] = 401

    with pytest.raises(Failure) as caught:
        repos.checkout(Repo(url=server.smart("private"), path="ui"), here.context)

    assert caught.value.class_ == "unauthorized"


@pytest.mark.parametrize("why", ["no such ref", "no such repository", "files in the way"])
def test_a_clone_that_fails_leaves_no_folder_and_what_was_there_stays(
    why: str, origin: Origin, server: GitServer, here: Surroundings
) -> None:
    name = "ui" if why != "no such repository" else "nothing"
    if why == "files in the way":
        here.write("new/ui/main.py", "mine\n")

    with pytest.raises(Failure):
        repos.checkout(
            Repo(url=server.smart(name), path="new/ui", ref="v9" if "ref" in why else None), here.context
        )

    folder = Path(here.workspace, "new/ui")
    found = sorted(path.name for path in folder.rglob("*")) if folder.exists() else None
    assert found == (["main.py"] if why == "files in the way" else None)


def test_a_ref_that_is_nowhere_is_not_found(origin: Origin, here: Surroundings) -> None:
    with pytest.raises(Failure) as caught:
        repos.checkout(Repo(url=origin.url, path="ui", ref="v9"), here.context)

    assert caught.value.class_ == "not_found"
    assert "`v9` is no branch, tag or commit" in caught.value.message


def test_what_an_earlier_run_checked_out_stays_when_its_branch_cannot_be_asked_for(
    origin: Origin, server: GitServer, here: Surroundings
) -> None:
    repo = Repo(url=server.smart("ui"), path="ui")
    commit = repos.checkout(repo, here.context)
    server.statuses["/smart/ui"] = 503

    assert repos.checkout(repo, here.context) == commit
    assert "no source can be asked" in here.of("warning")[0]["message"]


def test_submodules_come_along(tmp_path: Path, origin: Origin, server: GitServer, here: Surroundings) -> None:
    part = Origin(str(tmp_path / "origins" / "part"))
    part.commit({"part.py": "p\n"})
    git(origin.path, "submodule", "add", "--quiet", server.smart("part"), "part")
    origin.commit({"main.py": "2\n"})
    repo = Repo(url=server.smart("ui"), path="ui", submodules=True)

    repos.checkout(repo, here.context)
    repos.checkout(repo, here.context)

    assert read(here, "ui/part/part.py") == "p\n"
    assert here.names()[-1] == "repo_skipped"


def test_a_submodule_that_would_read_this_machine_is_refused_and_the_words_say_by_what(
    tmp_path: Path, origin: Origin, server: GitServer, here: Surroundings
) -> None:
    private = Origin(str(tmp_path / "private"))
    private.commit({"id_rsa": "private\n"})
    git(origin.path, "submodule", "add", "--quiet", private.url, "part")
    origin.commit({"main.py": "2\n"})

    with pytest.raises(Failure) as caught:
        repos.checkout(Repo(url=server.smart("ui"), path="ui", submodules=True), here.context)

    assert (caught.value.class_, caught.value.case) == ("unsafe_path", "submodule_protocol")
    assert "'file' not allowed" in caught.value.message
    assert "submodules" in caught.value.hint
    assert not os.path.exists(os.path.join(here.workspace, "ui/part/id_rsa"))


def test_a_url_that_would_run_a_program_is_refused_whatever_the_user_allows_git(
    here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "ext")
    with pytest.raises(Failure):
        repos.checkout(Repo(url=f"ext::touch {here.workspace}/ran", path="ui"), here.context)

    assert not os.path.exists(os.path.join(here.workspace, "ran"))


def folder_of(here: Surroundings, path: str = "ui") -> str:
    return os.path.join(here.workspace, path)


def test_the_modes_of_files_are_no_changes_and_a_pinned_commit_comes_all_the_same(
    origin: Origin, here: Surroundings
) -> None:
    repos.checkout(Repo(url=origin.url, path="ui"), here.context)
    second = origin.commit({"main.py": "2\n"})
    for file in Path(folder_of(here)).rglob("*.py"):
        file.chmod(0o777)

    assert repos.checkout(Repo(url=origin.url, path="ui", ref=second), here.context) == second
    assert read(here, "ui/main.py") == "2\n"
    assert here.of("warning") == []


def pins(origin: Origin, second: str) -> list[str]:
    origin.tag("v2")
    return [second, second[:9], "v2", "refs/tags/v2"]


@pytest.mark.parametrize("form", range(4))
def test_an_edited_tree_that_stays_at_another_commit_than_the_pinned_one_is_a_failure(
    form: int, origin: Origin, here: Surroundings
) -> None:
    first = repos.checkout(Repo(url=origin.url, path="ui"), here.context)
    here.write("ui/main.py", "mine\n")
    pin = pins(origin, origin.commit({"main.py": "2\n"}))[form]
    repo = Repo(url=origin.url, path="ui", ref=pin)

    with pytest.raises(Failure) as caught:
        repos.checkout(repo, here.context)

    assert caught.value.class_ == "conflict"
    assert f"stays at {first[:12]} and not at `{pin}" in caught.value.message
    assert "1 tracked file(s) were changed: `main.py`" in caught.value.message
    assert f"`git -C {folder_of(here)} stash` keeps" in caught.value.hint
    assert f"`git -C {folder_of(here)} reset --hard` discards" in caught.value.hint
    assert read(here, "ui/main.py") == "mine\n"
    git(folder_of(here), "reset", "--quiet", "--hard")  # as the hint says
    assert repos.checkout(repo, here.context) == git(origin.path, "rev-parse", "HEAD")


def test_edits_at_the_pinned_commit_and_on_the_wanted_branch_are_a_warning(
    origin: Origin, here: Surroundings
) -> None:
    first = repos.checkout(Repo(url=origin.url, path="ui", ref="main"), here.context)
    origin.tag("v1")
    here.write("ui/main.py", "mine\n")
    origin_at = {"main": None, "v1": None, first: None, first[:8]: None}

    for ref in origin_at:
        assert repos.checkout(Repo(url=origin.url, path="ui", ref=ref), here.context) == first
    origin.commit({"main.py": "2\n"})
    assert repos.checkout(Repo(url=origin.url, path="ui", ref="main"), here.context) == first

    assert len(here.of("warning")) == 5
    assert read(here, "ui/main.py") == "mine\n"


def test_edits_on_another_branch_than_the_wanted_one_are_a_failure(
    origin: Origin, here: Surroundings
) -> None:
    repos.checkout(Repo(url=origin.url, path="ui"), here.context)
    git(origin.path, "checkout", "--quiet", "-b", "dev")
    origin.commit({"main.py": "dev\n"})
    here.write("ui/main.py", "mine\n")

    with pytest.raises(Failure, match="not at `dev`"):
        repos.checkout(Repo(url=origin.url, path="ui", ref="dev"), here.context)


def test_a_tag_that_moved_under_an_edited_tree_is_a_failure_and_without_edits_it_is_followed(
    origin: Origin, here: Surroundings
) -> None:
    origin.tag("v1")
    repo = Repo(url=origin.url, path="ui", ref="v1")
    repos.checkout(repo, here.context)
    second = origin.commit({"main.py": "2\n"})
    git(origin.path, "tag", "--force", "v1")
    here.write("ui/main.py", "mine\n")

    with pytest.raises(Failure, match=f"not at `v1` \\({second[:12]}\\)"):
        repos.checkout(repo, here.context)
    git(folder_of(here), "checkout", "--quiet", "--", "main.py")

    assert repos.checkout(repo, here.context) == second


def test_commits_of_ones_own_under_a_pin_are_a_failure_and_the_hint_keeps_them_and_lets_it_in(
    origin: Origin, here: Surroundings
) -> None:
    repos.checkout(Repo(url=origin.url, path="ui"), here.context)
    here.write("ui/main.py", "mine\n")
    git(folder_of(here), "commit", "--quiet", "--all", "--message=mine")
    mine = git(folder_of(here), "rev-parse", "HEAD")
    second = origin.commit({"main.py": "2\n"})
    repo = Repo(url=origin.url, path="ui", ref=second)

    with pytest.raises(Failure) as caught:
        repos.checkout(repo, here.context)
    assert "known to no remote" in caught.value.message
    os.system(caught.value.hint.split("`")[1] + " >/dev/null 2>&1")

    assert repos.checkout(repo, here.context) == second
    assert git(folder_of(here), "rev-parse", "mine") == mine


def test_a_commit_that_was_fetched_without_a_ref_is_nobodys_own(
    origin: Origin, server: GitServer, here: Surroundings
) -> None:
    """As images are made: fetch one commit, check out FETCH_HEAD; no ref knows it."""
    first = git(origin.path, "rev-parse", "HEAD")
    second = origin.commit({"main.py": "2\n"})
    os.makedirs(folder_of(here))
    git(folder_of(here), "init", "--quiet")
    git(folder_of(here), "fetch", "--quiet", "--depth=1", server.smart("ui"), first)
    git(folder_of(here), "checkout", "--quiet", "FETCH_HEAD")

    assert repos.checkout(Repo(url=server.smart("ui"), path="ui", ref=second), here.context) == second
    assert git(folder_of(here), "for-each-ref", "--contains", first) != ""


def test_a_short_commit_id_behind_a_shallow_clone_is_fetched(
    origin: Origin, server: GitServer, here: Surroundings
) -> None:
    first = git(origin.path, "rev-parse", "HEAD")
    origin.commit({"main.py": "2\n"})
    repos.checkout(Repo(url=server.smart("ui"), path="ui"), here.context)

    assert repos.checkout(Repo(url=server.smart("ui"), path="ui", ref=first[:8]), here.context) == first


@pytest.mark.parametrize("ignored", ["", "own.yaml\n"])
def test_a_file_of_the_users_in_the_way_of_the_pinned_commit_is_a_failure_and_stays(
    ignored: str, origin: Origin, here: Surroundings
) -> None:
    origin.commit({".gitignore": ignored})
    repos.checkout(Repo(url=origin.url, path="ui"), here.context)
    here.write("ui/own.yaml", "mine\n")
    Path(origin.path, "own.yaml").write_text("theirs\n")
    git(origin.path, "add", "--force", "own.yaml")
    second = origin.commit({"main.py": "2\n"})

    with pytest.raises(Failure) as caught:
        repos.checkout(Repo(url=origin.url, path="ui", ref=second), here.context)

    assert caught.value.class_ == "conflict"
    assert "own.yaml" in caught.value.message
    assert read(here, "ui/own.yaml") == "mine\n"


def with_submodule(tmp_path: Path, origin: Origin, server: GitServer) -> tuple[Origin, str]:
    part = Origin(str(tmp_path / "origins" / "part"))
    old = part.commit({"part.py": "1\n"})
    part.commit({"part.py": "2\n"})
    git(origin.path, "submodule", "add", "--quiet", server.smart("part"), "part")
    return part, old


def test_a_submodule_at_another_commit_is_brought_back_and_its_edits_are_kept(
    tmp_path: Path, origin: Origin, server: GitServer, here: Surroundings
) -> None:
    _, old = with_submodule(tmp_path, origin, server)
    pin = origin.commit({"main.py": "2\n"})
    repo = Repo(url=server.smart("ui"), path="ui", ref=pin, submodules=True)
    repos.checkout(repo, here.context)
    inside = folder_of(here, "ui/part")
    git(inside, "fetch", "--quiet", "--unshallow")
    git(inside, "checkout", "--quiet", old)

    repos.checkout(repo, here.context)
    assert read(here, "ui/part/part.py") == "2\n"

    git(inside, "checkout", "--quiet", old)
    here.write("ui/part/part.py", "mine\n")
    with pytest.raises(Failure) as caught:
        repos.checkout(repo, here.context)
    assert caught.value.class_ == "conflict"
    assert read(here, "ui/part/part.py") == "mine\n"


def test_a_submodule_that_the_plan_does_not_want_keeps_no_pin_away(
    tmp_path: Path, origin: Origin, server: GitServer, here: Surroundings
) -> None:
    _, old = with_submodule(tmp_path, origin, server)
    origin.commit({"main.py": "2\n"})
    repos.checkout(Repo(url=server.smart("ui"), path="ui", submodules=True), here.context)
    git(folder_of(here, "ui/part"), "fetch", "--quiet", "--unshallow")
    git(folder_of(here, "ui/part"), "checkout", "--quiet", old)
    third = origin.commit({"main.py": "3\n"})

    assert repos.checkout(Repo(url=server.smart("ui"), path="ui", ref=third), here.context) == third
    assert read(here, "ui/part/part.py") == "1\n"


def short(path: Path) -> None:
    path.write_text(path.read_text()[:1])


def emptied(path: Path) -> None:
    path.write_text("")


def linked_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("ref", [None, "commit"])
@pytest.mark.parametrize(
    "lose", [Path.unlink, short, emptied, linked_to_nothing], ids=lambda how: how.__name__
)
def test_a_tracked_file_that_is_gone_or_cut_short_comes_back_and_is_named(
    lose: Callable[[Path], None], ref: str | None, origin: Origin, here: Surroundings
) -> None:
    commit = origin.commit({"nodes/a.py": "a = 1\n" * 100})
    repo = Repo(url=origin.url, path="ui", ref=ref and commit)
    repos.checkout(repo, here.context)
    lose(Path(here.workspace, "ui/nodes/a.py"))

    assert repos.checkout(repo, here.context) == commit

    assert read(here, "ui/nodes/a.py") == "a = 1\n" * 100
    assert not Path(here.workspace, "ui/nodes/a.py").is_symlink()
    (warning,) = here.of("warning")
    assert "`nodes/a.py`" in warning["message"] and "restored" in warning["message"]
    assert here.of("repo_skipped")[-1]["reason"] == "verified"


def test_what_people_staged_or_wrote_is_nothing_that_was_lost(origin: Origin, here: Surroundings) -> None:
    repo = Repo(url=origin.url, path="ui", ref=git(origin.path, "rev-parse", "HEAD"))
    repos.checkout(repo, here.context)
    folder = os.path.join(here.workspace, "ui")
    git(folder, "rm", "--quiet", "main.py")
    here.write("ui/nodes/a.py", "a = 'mine'")

    repos.checkout(repo, here.context)

    assert not Path(folder, "main.py").exists() and read(here, "ui/nodes/a.py") == "a = 'mine'"
    assert here.of("repo_skipped")[-1]["reason"] == "local changes"


def test_a_repair_sets_aside_what_people_changed_and_says_how_to_get_it_back(
    origin: Origin, here: Surroundings
) -> None:
    repo = Repo(url=origin.url, path="ui", ref=git(origin.path, "rev-parse", "HEAD"))
    repos.checkout(repo, here.context)
    here.write("ui/main.py", "mine")
    linked_to_nothing(Path(here.workspace, "ui/nodes/a.py"))

    repos.checkout(repo, here.context, sets_aside=True)

    assert (read(here, "ui/main.py"), read(here, "ui/nodes/a.py")) == ("1\n", "a\n")
    command = str(here.of("warning")[-1]["message"]).split("`")[-2]
    assert os.system(f"{command} >{os.devnull} 2>&1") == 0
    assert read(here, "ui/main.py") == "mine"


def test_a_repair_brings_a_pinned_commit_back_and_keeps_the_commits_that_were_in_its_place(
    origin: Origin, here: Surroundings
) -> None:
    repo = Repo(url=origin.url, path="ui", ref=git(origin.path, "rev-parse", "HEAD"))
    repos.checkout(repo, here.context)
    folder = os.path.join(here.workspace, "ui")
    here.write("ui/main.py", "mine")
    git(folder, "commit", "--quiet", "--all", "--message=mine")
    own = git(folder, "rev-parse", "HEAD")

    assert repos.checkout(repo, here.context, sets_aside=True) == repo.ref
    assert git(folder, "for-each-ref", "--contains", own), "it is never cleaned away"


def test_a_submodule_never_leads_to_a_disk_of_the_instance_and_the_words_say_so(
    tmp_path: Path, origin: Origin, server: GitServer, here: Surroundings
) -> None:
    private = Origin(str(tmp_path / "origins" / "private"))
    private.commit({"key": "private\n"})
    git(origin.path, "submodule", "add", "--quiet", private.url, "part")
    origin.commit({"main.py": "2\n"})

    with pytest.raises(Failure) as caught:
        repos.checkout(Repo(url=server.smart("ui"), path="ui", submodules=True), here.context)

    assert (caught.value.class_, caught.value.case) == ("unsafe_path", "submodule_protocol")
    assert "transport 'file' not allowed" in caught.value.message
    assert "submodules come by https or ssh only" in caught.value.hint
    assert not os.path.exists(os.path.join(here.context.workspace, "ui/part/key"))


def test_no_hook_runs_because_of_a_checkout(tmp_path: Path, origin: Origin, here: Surroundings) -> None:
    hooks = os.path.join(here.context.workspace, "ui", ".git", "hooks")
    ran = tmp_path / "ran"
    repos.checkout(Repo(url=origin.url, path="ui"), here.context)
    os.makedirs(hooks, exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        with open(os.path.join(hooks, name), "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\ntouch {ran}\n")
        os.chmod(file.name, 0o755)
    origin.commit({"main.py": "2\n"})

    repos.checkout(Repo(url=origin.url, path="ui"), here.context)

    assert read(here, "ui/main.py") == "2\n"
    assert not ran.exists()
