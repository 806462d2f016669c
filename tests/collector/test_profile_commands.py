"""`provision check` and `provision profiles`: data on stdout, problems on stderr, 0 or 3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from provision_collector.cli import main
from provision_collector.profile import compile_plan, load_profile


class Finished:
    """How one command ended."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code = code or 0
        self.out = out
        self.err = err


@pytest.fixture
def provision(capsys: pytest.CaptureFixture[str]):
    def run(*argv: str) -> Finished:
        try:
            main(argv)
            code: object = 0
        except SystemExit as exit_:
            code = exit_.code
        out, err = capsys.readouterr()
        return Finished(code, out, err)

    return run


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    path = tmp_path / "wrong.yaml"
    path.write_text("version: 1\naptt: [git]\nstrict: 1\n")
    return str(path)


def test_a_valid_profile_is_one_line_of_counts(provision) -> None:
    done = provision("check", "comfyui-min")

    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "comfyui-min is valid: 2 downloads (7.3 GB known), 2 repos, 4 checks, 1 service; 8 critical items\n"
    )


def test_a_profile_may_also_be_given_as_an_option_with_variables(provision) -> None:
    done = provision("check", "--profile", "selftest", "--set", "server=http://h/a=b", "--json")

    facts = json.loads(done.out)
    expected = compile_plan(load_profile("selftest", overrides={"server": "http://h/a=b"}))
    assert (done.code, facts["valid"], facts["plan_hash"]) == (0, True, expected.hash)
    assert (facts["downloads"], facts["unknown_sizes"], facts["critical"]) == (1, 1, 2)


def test_a_wrong_profile_prints_every_problem_and_ends_with_3(provision, wrong: str) -> None:
    done = provision("check", wrong)

    assert (done.code, done.out) == (3, "")
    assert f"{wrong}:2:1: unknown key `aptt`; did you mean `apt`?\n" in done.err
    assert f"{wrong}:3:9: `strict` must be true or false, not `1`\n" in done.err


def test_programs_get_problems_as_fields(provision, wrong: str) -> None:
    done = provision("check", wrong, "--json")

    assert done.code == 3
    assert json.loads(done.out) == {
        "valid": False,
        "profile": wrong,
        "problems": [
            {"file": wrong, "line": 2, "column": 1, "message": "unknown key `aptt`; did you mean `apt`?"},
            {"file": wrong, "line": 3, "column": 9, "message": "`strict` must be true or false, not `1`"},
        ],
    }


@pytest.mark.parametrize(
    "argv",
    [(), ("a", "--profile", "b"), ("selftest", "--set", "server"), ("selftest", "--set", "=x")],
    ids=str,
)
def test_a_call_that_means_nothing_ends_with_2(provision, argv: tuple[str, ...]) -> None:
    done = provision("check", *argv)

    assert (done.code, done.out) == (2, "")
    assert "next:" in done.err


def test_the_list_names_every_profile(provision) -> None:
    lines = provision("profiles", "list").out.splitlines()
    objects = [json.loads(line) for line in provision("profiles", "list", "--json").out.splitlines()]

    assert [line.split()[0] for line in lines] == [facts["name"] for facts in objects]
    assert all(facts["description"] and Path(facts["file"]).is_file() for facts in objects)


def test_show_prints_the_file_as_it_is_written(provision) -> None:
    file = load_profile("comfyui").sources[-1]
    first, rest = provision("profiles", "show", "comfyui").out.split("\n", 1)

    assert rest == Path(file).read_text(encoding="utf-8")
    schema = Path(first.removeprefix("# yaml-language-server: $schema="))
    assert json.loads(schema.read_text(encoding="utf-8"))["title"] == "provision profile"


def test_a_file_that_names_its_schema_itself_is_shown_as_it_is(provision, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\n# yaml-language-server: $schema=./mine.json\nversion: 1\n")

    assert provision("profiles", "show", str(path)).out == path.read_text()


def test_show_resolved_prints_a_profile_of_the_same_plan(provision, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(provision("profiles", "show", "comfyui", "--resolved", "--set", "port=1").out)

    assert compile_plan(load_profile(str(path))) == compile_plan(
        load_profile("comfyui", overrides={"port": "1"})
    )


def test_show_for_programs_is_one_object(provision) -> None:
    facts = json.loads(provision("profiles", "show", "comfyui-min", "--resolved", "--json").out)

    assert (facts["name"], len(facts["sources"])) == ("comfyui-min", 2)
    assert facts["profile"]["downloads"][0]["size"] == 6938078334


def test_an_unknown_profile_gets_the_nearest_name(provision) -> None:
    done = provision("profiles", "show", "comfy-min")

    assert done.code == 3
    assert "did you mean `comfyui-min`?" in done.err


@pytest.mark.parametrize("argv", [(), ("--events",)], ids=str)
def test_the_schemas_are_json(provision, argv: tuple[str, ...]) -> None:
    assert json.loads(provision("profiles", "schema", *argv).out)["$schema"].endswith("2020-12/schema")
