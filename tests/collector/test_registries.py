"""Each concept is registered once, and whoever needs it reads the registry: nothing of it is missing anywhere."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

import provision_agent
import provision_collector.errors
import pytest
from provision_agent.contract.cases import CASES
from provision_agent.contract.events import AGENT, BOTH, COLLECTOR, EVENTS
from provision_agent.contract.failures import FAILURES
from provision_agent.contract.status import RunState
from provision_agent.contract.steps import GROUPS, STEPS
from provision_agent.contract.verdicts import NEXT, VERDICTS, exit_code, worst
from provision_collector.console.summary import summary
from provision_collector.errors import ProvisionError
from provision_collector.profile.schema import events_schema, profile_schema

ROOT = Path(__file__).parents[2]
AGENT_FILES = sorted(Path(provision_agent.__file__).parent.rglob("*.py"))


def document(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_a_key_of_the_profile_an_option_and_a_part_of_the_status(name):
    step = STEPS[name]

    assert name in profile_schema()["properties"]
    assert name in document("COMMANDS.md")
    assert GROUPS[step.kind] == step.group
    assert step.group in RunState("r").to_json()
    assert {f"{step.kind}_failed"} <= set(EVENTS)
    assert step.text


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_has_a_code_a_meaning_and_a_next_step_for_people(name):
    verdict = VERDICTS[name]
    shown = "\n".join(words.text for words in summary({"verdict": name, "duration_s": 1}))

    assert f"| `{name}` | {verdict.code} | {verdict.meaning} |" in document("TROUBLESHOOTING.md")
    assert verdict.meaning in shown
    assert verdict.next is None or verdict.next in NEXT
    assert verdict.tone in ("good", "warn", "bad")
    assert worst([0, exit_code(name)]) == verdict.code


def test_every_error_here_ends_with_the_code_of_its_verdict():
    kinds = [kind for kind in vars(provision_collector.errors).values() if isinstance(kind, type)]
    errors = [kind for kind in kinds if issubclass(kind, ProvisionError)]

    assert len(errors) > 8
    assert {kind.__name__: kind.exit_code for kind in errors} == {
        kind.__name__: VERDICTS[kind.verdict].code for kind in errors
    }


@pytest.mark.parametrize("name", FAILURES)
def test_a_class_of_errors_says_what_to_do(name):
    failure = FAILURES[name]

    assert f"| `{name}` | {failure.hint} |" in document("TROUBLESHOOTING.md")
    assert failure.next in NEXT
    assert failure.scope in ("item", "host", "run")


def test_the_agent_fails_only_with_classes_that_are_registered():
    used = {
        node.args[0].value
        for path in AGENT_FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Failure"
        if node.args and isinstance(node.args[0], ast.Constant)
    }

    assert len(used) > 10
    assert used <= set(FAILURES)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_documented_and_in_the_schema(name):
    kind = EVENTS[name]

    assert f"| `{name}` |" in document("EVENTS.md")
    assert f'"{name}"' in json.dumps(events_schema())
    assert kind.text
    assert kind.writer in (AGENT, COLLECTOR, BOTH)
    assert kind.group in ("", *GROUPS.values())


def test_a_kind_of_source_is_documented():
    if importlib.util.find_spec("provision_agent.contract.source_kinds") is None:
        pytest.skip("there is no registry of sources yet")
    from provision_agent.contract.source_kinds import SOURCE_KINDS

    text = document("PROFILE.md")
    for kind in SOURCE_KINDS.values():
        assert [form.start for form in kind.forms if form.start not in text] == []


def test_the_page_knows_every_verdict_every_next_step_and_every_event_of_an_item():
    if importlib.util.find_spec("provision_collector.pool.server.page_words") is None:
        pytest.skip("the page has no words of the registries yet")
    from provision_collector.pool.server.page_words import page_words

    words = str(page_words())
    of_items = [name for name, kind in EVENTS.items() if kind.group]
    next_steps = [word for word, text in NEXT.items() if text]

    assert [name for name in (*VERDICTS, *next_steps, *of_items) if f'"{name}"' not in words] == []


def test_the_agent_advises_only_by_cases_that_are_registered():
    calls = [
        node
        for path in AGENT_FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("Failure", "advise")
    ]
    named = {
        part.value
        for call in calls
        for words in (*call.args[:1], *(each.value for each in call.keywords if each.arg == "case"))
        for part in ast.walk(words)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }

    assert len(calls) > 50
    assert named <= {*CASES, *FAILURES}
    assert not [call.lineno for call in calls for each in call.keywords if each.arg == "hint"]


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_documented(name):
    assert f"| `{name}` |" in document("TROUBLESHOOTING.md")
