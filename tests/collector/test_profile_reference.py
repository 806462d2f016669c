"""docs/PROFILE.md is complete and true: its tables are the models', and what stands in them can be read back."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from provision_collector.profile import Profile, compile_plan
from provision_collector.profile.model import Document
from provision_collector.profile.notes import fields_of
from provision_collector.profile.reference import all_parts, default_of, example_of, filled
from pydantic import TypeAdapter

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "PROFILE.md").read_text(encoding="utf-8")
FIELDS = {f"{part.__name__}.{field.key}": (part, field) for part in all_parts() for field in fields_of(part)}


def read(annotation: object, text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an alias means nothing to a type alone
        return TypeAdapter(annotation).validate_python(yaml.safe_load(text))


def test_the_page_is_as_made_from_the_models() -> None:
    """`make docs` writes it."""
    assert filled(PAGE) == PAGE


def test_every_part_of_the_language_has_its_table() -> None:
    assert [part.__name__ for part in all_parts() if f"<!-- fields: {part.__name__} -->" not in PAGE] == []


def test_every_key_of_a_profile_is_found_from_the_top_of_the_page() -> None:
    top = PAGE[: PAGE.index("## How to read")]
    keys = [field.key for part, field in FIELDS.values() if part is Document]

    assert [key for key in keys if f"[`{key}`](#" not in top] == []
    places = re.findall(r"\]\(#([\w-]+)\)", top)
    sections = {title.strip("`").lower() for title in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)}
    assert [place for place in places if f'id="{place}"' not in PAGE and place not in sections] == []


def test_a_part_without_a_table_gets_one() -> None:
    block = re.search(r"<!-- fields: Command -->.*?<!-- end -->\n", PAGE, re.DOTALL)
    assert block is not None

    made = filled(PAGE.replace(block[0], ""))

    assert made.endswith(block[0])
    assert filled(made) == made


@pytest.mark.parametrize("name", FIELDS)
def test_a_key_is_described_and_its_example_is_one(name: str) -> None:
    part, field = FIELDS[name]

    assert (part.model_fields[field.name].description or "").endswith(".")
    if field.part is None:
        assert read(field.annotation, example_of(field)) is not None


@pytest.mark.parametrize("name", FIELDS)
def test_the_default_on_the_page_is_the_one_that_counts(name: str) -> None:
    part, field = FIELDS[name]
    text = default_of(part, field)

    assert (text is None) == part.model_fields[field.name].is_required()
    if text:
        assert read(field.annotation, text) == part.model_fields[field.name].default


@pytest.mark.parametrize(
    "block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL), ids=lambda text: text[11:40]
)
def test_the_pages_examples_are_profiles(block: str) -> None:
    assert compile_plan(Profile.from_text(block))


def test_every_link_of_the_page_leads_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 _-]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    anchors = headings | set(re.findall(r'<a id="([^"]+)"', PAGE))

    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) - anchors == set()
