"""Links on the way to what a run writes: the user's own are followed, those that a repository brought lead nowhere out."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from harness.content import Content
from harness.downloads import Bench, quick
from harness.environments import Surroundings
from harness.git_server import Origin, git
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Download, File, Python, Repo
from provision_agent.host.beneath import LeadsOutError, open_folder
from provision_agent.run.state import StateFile
from provision_agent.services.files import ServiceFiles
from provision_agent.steps import files, repos
from provision_agent.steps.python import venv


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """A repository with a link that leads out, one that stays in, and one into the tool's own folder."""
    made = Origin(str(tmp_path / "origin"))
    made.commit({"main.py": "1\n"})
    (tmp_path / "outside").mkdir()
    for name, target in {
        "out": tmp_path / "outside",
        "up": "../../outside",
        "in": "..",
        "tool": "../.provision",
    }.items():
        os.symlink(target, os.path.join(made.path, name))
    git(made.path, "add", "--all")
    git(made.path, "commit", "--quiet", "--message=links")
    return made


@pytest.fixture
def here(tmp_path: Path, origin: Origin) -> Surroundings:
    """A workspace into which it was cloned by a run."""
    made = Surroundings(str(tmp_path / "workspace"))
    repos.checkout(Repo(url=origin.url, path="ui"), made.context)
    return made


def bench_of(here: Surroundings) -> Bench:
    made = Bench(Path(here.workspace))
    object.__setattr__(
        made.context, "state", StateFile(os.path.join(here.workspace, ".provision", "state.json"))
    )
    return made


LEAD_OUT = [
    "ui/out/x.bin",
    "ui/up/x.bin",
    "ui/up/new/folder/x.bin",
    "ui/tool/agent/x.bin",
    "ui/in/ui/out/x.bin",
]


@pytest.mark.parametrize("path", LEAD_OUT)
def test_a_link_of_a_repository_leads_no_download_out_and_the_words_say_where(
    path, here, server, tmp_path
) -> None:
    item = Download(url=server.add("/x.bin", Content(1000)), path=path, limits=quick(attempts=1))

    failure = bench_of(here).fetch_one(item).failure

    assert (failure.class_, failure.case) == ("unsafe_path", "leads_out")
    assert f"{path}` is not written: the link `{here.workspace}/ui/" in failure.message
    assert "write the path that the link leads to" in failure.hint
    assert list((tmp_path / "outside").iterdir()) == []
    assert not os.path.lexists(os.path.join(here.workspace, ".provision/agent"))


@pytest.mark.parametrize("path", LEAD_OUT)
def test_a_link_of_a_repository_leads_no_text_and_no_other_repository_out(
    path, here, origin, tmp_path
) -> None:
    with pytest.raises(Failure) as text:
        files.do(File(path=path, content="x"), here.context, None)
    with pytest.raises(Failure) as repo:
        repos.checkout(Repo(url=origin.url, path=os.path.dirname(path)), here.context)

    assert (text.value.case, repo.value.case) == ("leads_out", "leads_out")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("path", ["ui/out/venv", "ui/up", "ui/tool/venv"])
def test_a_link_of_a_repository_leads_no_environment_out(path, here, tmp_path) -> None:
    pythons = [{"path": sys.executable, "version": "3.11"}]

    for is_made in (False, True):
        if is_made:  # one that suits lies there already: nothing is to be installed into it
            bin_folder = tmp_path / "outside/venv/bin"
            bin_folder.mkdir(parents=True)
            (bin_folder / "python").symlink_to(sys.executable)
        with pytest.raises(Failure) as caught:
            venv.prepare(Python(venv=path, installer="pip"), here.context, {"pythons": pythons})
        assert (caught.value.class_, caught.value.case) == ("unsafe_path", "leads_out")
        assert f"/{path}` is not written: the link `{here.workspace}/ui/" in caught.value.message
        assert is_made or list((tmp_path / "outside").iterdir()) == []


def test_an_environment_in_a_repository_is_made_where_a_link_stays_in_the_workspace(here) -> None:
    pythons = [{"path": sys.executable, "version": "3.11"}]

    made = venv.prepare(Python(venv="ui/in/venv", installer="pip"), here.context, {"pythons": pythons})

    assert made.is_created
    assert os.path.isfile(os.path.join(here.workspace, "venv/pyvenv.cfg"))


@pytest.mark.parametrize("which", [".provision", ".provision/services"])
def test_services_write_nothing_where_a_link_lies_in_place_of_their_folder(which, tmp_path) -> None:
    (tmp_path / "outside").mkdir()
    here = Surroundings(str(tmp_path / "workspace"))
    shutil.rmtree(os.path.join(here.workspace, ".provision"), ignore_errors=True)
    folder = os.path.join(here.workspace, which)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    os.symlink(tmp_path / "outside", folder)

    with pytest.raises(Failure, match=f"`{folder}` is a link, not a folder") as caught:
        ServiceFiles("web", here.context).make_folder()

    assert caught.value.class_ == "read_only"
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_of_a_repository_that_stays_in_the_workspace_is_followed(here, server) -> None:
    item = Download(
        url=server.add("/x.bin", Content(1000)), path="ui/in/models/x.bin", limits=quick(attempts=1)
    )

    assert bench_of(here).fetch_one(item).state == "ok"
    assert os.path.isfile(os.path.join(here.workspace, "models/x.bin"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_link_of_the_users_own_is_followed_wherever_it_leads(when, origin, server, tmp_path) -> None:
    here = Surroundings(str(tmp_path / "real"))
    os.symlink(here.workspace, tmp_path / "workspace")
    here = Surroundings(str(tmp_path / "workspace"))
    (tmp_path / "data").mkdir()
    if when == "before":
        git(str(tmp_path), "clone", "--quiet", origin.path, os.path.join(here.workspace, "ui"))
    repos.checkout(Repo(url=origin.url, path="ui"), here.context)
    os.symlink(tmp_path / "data", os.path.join(here.workspace, "ui", "models"))
    item = Download(url=server.add("/x.bin", Content(1000)), path="ui/models/x.bin", limits=quick(attempts=1))

    assert bench_of(here).fetch_one(item).state == "ok"
    assert (tmp_path / "data/x.bin").is_file()
    files.do(File(path="ui/models/note.txt", content="x"), here.context, None)
    assert (tmp_path / "data/note.txt").read_text() == "x"
    if when == "before":
        files.do(File(path="ui/out/note.txt", content="x"), here.context, None)
        assert (tmp_path / "outside/note.txt").is_file(), "the image itself had the link of its checkout"


def test_a_link_that_a_later_commit_brings_is_not_the_users_own(origin, tmp_path) -> None:
    here = Surroundings(str(tmp_path / "workspace"))
    git(str(tmp_path), "clone", "--quiet", origin.path, os.path.join(here.workspace, "ui"))
    os.unlink(os.path.join(origin.path, "in"))
    os.symlink("../../outside", os.path.join(origin.path, "in"))
    origin.commit({"main.py": "2\n"})
    repos.checkout(Repo(url=origin.url, path="ui"), here.context)

    with pytest.raises(Failure, match=r"the link `.*/ui/in` leads to `../../outside`"):
        files.do(File(path="ui/in/x", content="x"), here.context, None)


def test_a_checkout_of_an_earlier_release_has_no_links_of_the_users(here, tmp_path) -> None:
    here.context.state.forget("links", "ui")
    repos.checkout(Repo(url=str(tmp_path / "origin"), path="ui"), here.context)

    with pytest.raises(Failure, match="leads to"):
        files.do(File(path="ui/out/x", content="x"), here.context, None)


def test_a_folder_that_becomes_a_link_on_the_way_changes_nothing(tmp_path: Path) -> None:
    """What is written goes to the folder that was reached, not to what its name has become."""
    (tmp_path / "root/models").mkdir(parents=True)
    (tmp_path / "outside").mkdir()

    with open_folder(str(tmp_path / "root"), "models", is_brought=lambda link: True) as folder:
        os.rename(tmp_path / "root/models", tmp_path / "root/old")
        os.symlink(tmp_path / "outside", tmp_path / "root/models")
        os.close(folder.open("x", os.O_WRONLY | os.O_CREAT))

    assert os.listdir(tmp_path / "root/old") == ["x"]
    assert os.listdir(tmp_path / "outside") == []


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    os.symlink("b", tmp_path / "a")
    os.symlink("a", tmp_path / "b")

    for is_brought in (True, False):
        with pytest.raises(OSError, match=r"link|directory") as caught:
            open_folder(str(tmp_path), "a/x", is_brought=lambda link, brought=is_brought: brought)
        assert not isinstance(caught.value, LeadsOutError)
