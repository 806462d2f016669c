"""The profiles in `examples/`: valid, and each shows an editor where its schema is."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from provision_collector.cli import main
from provision_collector.profile import compile_plan, load_profile
from provision_collector.profile.schema import FOR_EDITORS, profile_schema

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["check", str(path)])

    assert exited.value.code == 0
    assert capsys.readouterr().out.startswith(f"{path.stem} is valid: ")
    plan = compile_plan(load_profile(str(path)))
    assert plan.bind(workspace="/w", home="/h", run_id="r").name == path.stem


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_editor_finds_the_schema_of_an_example_and_underlines_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    schema = path.parent / text.splitlines()[0].removeprefix(FOR_EDITORS)

    assert schema.resolve() == ROOT / "provision_profiles" / "profile.schema.json"
    assert list(jsonschema.Draft202012Validator(profile_schema()).iter_errors(yaml.safe_load(text))) == []


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5
