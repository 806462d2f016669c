"""``provision completion``: what makes a shell complete this tool's words."""

from __future__ import annotations

import click

from .output import say_file

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options, runs, profiles and hosts.

    \b
    bash:  echo 'eval "$(provision completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(provision completion zsh)"' >> ~/.zshrc
    fish:  provision completion fish > ~/.config/fish/completions/provision.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = context.find_root()
    say_file(kind(root.command, {}, "provision", "_PROVISION_COMPLETE").source() + "\n")
