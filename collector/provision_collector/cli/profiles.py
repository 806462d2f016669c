"""`provision profiles`: the built-in ones, what one comes to, the schema for editors; and profiles made from other things."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import completing
from .options import (
    Connection,
    Option,
    configure_logging,
    connection_options,
    instance_of,
    variables_option,
)
from .output import say, say_file, say_json, tell

if TYPE_CHECKING:
    from ..convert import Converted


_output_option: Option = click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Write the profile there, not to stdout."
)
_offline_option: Option = click.option(
    "--offline", is_flag=True, help="Do not fetch ComfyUI-Manager's list of nodes from the package index."
)


@click.group("profiles")
def command() -> None:
    """The built-in profiles, and the language they are written in."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def list_(as_json: bool) -> None:
    """Name and describe the built-in profiles."""
    from ..profile.library import descriptions

    known = descriptions()
    if not as_json:
        width = max(map(len, known))
        for name, about in known.items():
            say(f"{name:{width}}  {about}")
        return
    from ..profile import compile_plan, load_profile
    from .check import counts

    for name in known:
        profile = load_profile(name)
        facts = counts(profile, compile_plan(profile))
        say_json({**facts, "description": profile.document.description, "file": profile.sources[-1]})


@command.command("show")
@click.argument("name", shell_complete=completing.profiles, metavar="NAME|PATH")
@click.option("--resolved", is_flag=True, help="With everything that it extends, and variables filled in.")
@variables_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(name: str, resolved: bool, variables: tuple[tuple[str, str], ...], as_json: bool) -> None:
    """Print a profile: as it is written, or resolved."""
    from ..profile import load_profile
    from ..profile.schema import for_editors
    from ..profile.source import read_text

    profile = load_profile(name, overrides=dict(variables))
    content: object = profile.resolved() if resolved else read_text(profile.sources[-1])
    if as_json:
        facts = {"name": profile.name, "sources": profile.sources, "profile": content}
        say_json(facts)
    else:
        say_file(for_editors(content if isinstance(content, str) else as_yaml(content)))


@command.command("schema")
@click.option("--events", is_flag=True, help="Of the events, not of profiles.")
def schema(events: bool) -> None:
    """Print the JSON Schema of profiles (editors complete and check with it) or of events."""
    from ..profile.schema import events_schema, profile_schema

    say_file(as_json_file(events_schema() if events else profile_schema()))


@command.command("from-workflow")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@_output_option
@_offline_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def from_workflow(files: tuple[Path, ...], output: Path | None, offline: bool, as_json: bool) -> None:
    """Make a profile of what ComfyUI workflows (editor's or API format, or a PNG or WebP with one) need: models and custom nodes."""
    from ..convert import from_workflows
    from ..convert.node_list import fetched

    made = from_workflows(files) if offline else from_workflows(files, node_list=fetched)
    _give(made, "what these workflows need: " + ", ".join(map(str, files)), output, as_json)


@command.command("import")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@_output_option
@_offline_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def import_(file: Path, output: Path | None, offline: bool, as_json: bool) -> None:
    """Make a profile of a provisioning manifest or script, a ComfyUI-Manager snapshot.json, or a .cpack.zip."""
    from ..console.text import harmless
    from ..convert import from_file
    from ..convert.node_list import fetched
    from ..errors import UsageError

    made = from_file(file) if offline else from_file(file, node_list=fetched)
    if made.is_empty:
        for sentence in made.unresolved:
            tell(f"open: {harmless(sentence)}")
        raise UsageError(
            f"nothing of `{file}` became an item of a profile",
            hint="write what you need into a profile by hand, commands under `commands:`: docs/PROFILE.md",
        )
    _give(made, f"imported from {file}", output, as_json)


@command.command("capture")
@connection_options
@click.option("--comfyui", metavar="PATH", help="Its folder on the instance; else the usual places.")
@click.option("--name", metavar="NAME", help="The profile's name (the host's).")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Write the profile there, and its lock beside it."
)
@click.option(
    "--catalogue",
    metavar="URL",
    help="Who is asked, by hash, where a model can be had (https://civitai.com).",
)
@click.option("--offline", is_flag=True, help="Ask no catalogue.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def capture_(
    connection: Connection,
    comfyui: str | None,
    name: str | None,
    output: Path | None,
    catalogue: str | None,
    offline: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Make a profile, and with -o its lock, of the ComfyUI that runs on --host."""
    configure_logging(verbose)
    import asyncio

    from ..convert.capture import CATALOGUE, capture, from_capture

    instance = instance_of(connection)
    asked = "" if offline else catalogue or CATALOGUE
    found = asyncio.run(capture(instance, comfyui=comfyui, catalogue=asked))
    converted = from_capture(found, name or instance.host)
    _give(converted, f"captured from {instance}:{found.workspace}", output, as_json)
    if output is not None:
        _lock(output)


def _lock(output: Path) -> None:
    """A captured profile says everything itself; its lock needs to ask nobody."""
    from ..planning.answers import unasked
    from ..planning.lock import lock_path, make_lock
    from ..profile import compile_plan, load_profile

    plan = compile_plan(load_profile(f"./{output}" if output.parent == Path() else str(output)))
    lock, unpinned = make_lock(plan, unasked(plan))
    assert not unpinned, unpinned
    lock_path(f"./{output}").write_text(lock.to_text(), encoding="utf-8")


def _give(converted: Converted, comment: str, output: Path | None, as_json: bool) -> None:
    """Hand over a converted profile, checked; what is left open goes to stderr, too."""
    from ..console.text import harmless
    from ..profile import Profile

    text = converted.to_yaml(comment=comment)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    if as_json:
        facts = {
            "profile": converted.profile,
            "unresolved": converted.unresolved,
            "notes": converted.notes,
            "file": output and str(output),
        }
        say_json(facts)
    elif output is None:
        say_file(text)
    elif not as_json:
        tell(f"`{output}` is written")
    for sentence in converted.notes:
        tell(f"note: {harmless(sentence)}")
    for sentence in converted.unresolved:
        tell(f"open: {harmless(sentence)}")
    Profile.from_text(
        text, name=str(output or "profile.yaml")
    )  # whatever came in, a profile that is wrong says so
    if output is not None and not as_json:
        tell(f"next: `provision check {shlex.quote(str(output))}`")


def as_yaml(content: object) -> str:
    """*content* as YAML that reads back the same, keys in their own order."""
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def as_json_file(content: object) -> str:
    """*content* as a JSON file that people may read."""
    return json.dumps(content, indent=1) + "\n"
