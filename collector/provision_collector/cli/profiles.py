"""`provision profiles`: the built-in ones, what one comes to, and the schema for editors."""

from __future__ import annotations

import json
from typing import Any

import click
import yaml

from .check import overrides


@click.group("profiles")
def command() -> None:
    """The built-in profiles, and the language they are written in."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def list_(as_json: bool) -> None:
    """Name and describe the built-in profiles."""
    from ..profile import compile_plan, load_profile, named_profiles
    from .check import counts

    profiles = [load_profile(name) for name in named_profiles()]
    width = max(len(profile.name) for profile in profiles)
    for profile in profiles:
        about = profile.document.description
        if as_json:
            facts = counts(profile, compile_plan(profile))
            click.echo(
                json.dumps({**facts, "description": about, "file": profile.sources[-1]}, ensure_ascii=False)
            )
        else:
            click.echo(f"{profile.name:{width}}  {about}")


@command.command("show")
@click.argument("name", metavar="NAME|PATH")
@click.option("--resolved", is_flag=True, help="With everything that it extends, and variables filled in.")
@click.option("--set", "variables", metavar="NAME=VALUE", multiple=True, help="A variable of the profile.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(name: str, resolved: bool, variables: tuple[str, ...], as_json: bool) -> None:
    """Print a profile: as it is written, or resolved."""
    from ..profile import load_profile
    from ..profile.source import read_text

    profile = load_profile(name, overrides=overrides(variables))
    content: Any = profile.resolved() if resolved else read_text(profile.sources[-1])
    if as_json:
        facts = {"name": profile.name, "sources": profile.sources, "profile": content}
        click.echo(json.dumps(facts, ensure_ascii=False))
    else:
        click.echo(as_yaml(content) if resolved else content, nl=False)


@command.command("schema")
@click.option("--events", is_flag=True, help="Of the events, not of profiles.")
def schema(events: bool) -> None:
    """Print the JSON Schema of profiles (editors complete and check with it) or of events."""
    from ..profile.schema import events_schema, profile_schema

    click.echo(as_json_file(events_schema() if events else profile_schema()), nl=False)


def as_yaml(content: Any) -> str:
    """*content* as YAML that reads back the same, keys in their own order."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def as_json_file(content: Any) -> str:
    """*content* as a JSON file that people may read."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
