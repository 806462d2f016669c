"""The generated documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from provision_agent.contract.events import EVENTS
from provision_collector.cli import COMMANDS, cli
from provision_collector.reference import DOCUMENTS
from provision_collector.reference.markdown import table

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_generated_document_is_as_the_code_is(name):
    assert (DOCS / name).read_text() == DOCUMENTS[name](), "write it anew with `make docs`"


def every_option(command: click.Command) -> list[str]:
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    own = [name for each in command.params if isinstance(each, click.Option) for name in each.opts]
    return own + [name for each in inner for name in every_option(each)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_documented_with_help(name):
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    text = (DOCS / "COMMANDS.md").read_text()

    assert f"### provision {name}\n" in text
    assert command.help
    assert [option for option in every_option(command) if option not in text] == []


def test_every_event_is_documented_with_the_fields_that_it_always_has():
    rows = {
        line.split("`")[1]: line
        for line in (DOCS / "EVENTS.md").read_text().splitlines()
        if line[:3] == "| `"
    }

    for name, kind in EVENTS.items():
        assert [field for field in kind.always if f"**`{field}`**" not in rows[name]] == [], name


def test_text_cannot_end_a_cell_of_a_table():
    assert table(("a", "b"), [("x|y", "one\ntwo")])[2] == "| x\\|y | one two |"


def test_every_link_of_a_document_leads_somewhere():
    pages = [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")]
    links = [
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    ]

    assert len(links) > 30
    assert [
        f"{page.name}: {link}"
        for page, link in links
        if "://" not in link and not (page.parent / link).exists()
    ] == []
