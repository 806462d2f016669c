"""The pages for people: every profile in them is valid, every command is one that there is, every file is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import yaml
from provision_collector.cli import cli
from provision_collector.profile import compile_plan, load_profile

ROOT = Path(__file__).parents[2]
PAGES = ("GETTING_STARTED.md", "COOKBOOK.md")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
_BETWEEN = ("&&", "||", "|", "&", ";")


class Block(NamedTuple):
    """One block of code: where it stands, and what it is."""

    page: str
    line: int
    kind: str
    text: str


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = ROOT.joinpath("docs", page).read_text()
        for found in _BLOCK.finditer(text):
            yield Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])


BLOCKS = list(blocks())


def name_of(block: Block) -> str:
    return f"{block.page}:{block.line}"


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command in a block of shell, or in the steps of a workflow."""
    text = block.text
    if block.kind == "yaml":
        jobs = yaml.safe_load(text).get("jobs")
        text = (
            "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
            if isinstance(jobs, dict)
            else ""
        )
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), ";"]:
            if word in _BETWEEN:
                yield words
                words = []
            else:
                words.append(word)


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.kind == "yaml"], ids=name_of)
def test_a_profile_in_the_documents_is_valid(block: Block, tmp_path: Path) -> None:
    if "version" not in yaml.safe_load(block.text):
        assert "jobs" in yaml.safe_load(block.text), "a workflow, or what is it?"
        return
    path = tmp_path / "page.yaml"
    path.write_text(block.text)

    assert compile_plan(load_profile(str(path)))


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_a_command_in_the_documents_takes_these_words(block: Block) -> None:
    for words in commands(block) if block.kind in ("", "sh", "yaml") else ():
        if words[:1] == ["provision"]:
            context, command = click.Context(cli, info_name="provision"), cli
            rest = words[1:]
            if rest == ["--version"]:
                continue
            while isinstance(command, click.Group):
                found = command.get_command(context, rest[0])
                assert found is not None, words
                command, rest = found, rest[1:]
            command.make_context("provision", list(rest))
        for word in words:
            assert not word.startswith("docs/") or ROOT.joinpath(word).exists(), word


def test_what_the_documents_lead_to_is_there() -> None:
    for page in PAGES:
        for target in _LINK.findall(ROOT.joinpath("docs", page).read_text()):
            assert ROOT.joinpath("docs", target).exists(), f"{page}: {target}"
