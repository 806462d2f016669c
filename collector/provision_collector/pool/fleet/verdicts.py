"""What went wrong on an instance of a fleet, in words that are equal for equal failures."""

from __future__ import annotations

from provision_agent.contract.events import JsonObject

GOOD = (0, 5)
"""Codes of instances that can be used."""


def fingerprint(outcome: JsonObject) -> str:
    """What went wrong, without what differs from machine to machine."""
    errors = errors_of(outcome)
    if not errors:
        return str(outcome["verdict"])
    first = next((error for error in errors if error.get("level") == "critical"), errors[0])
    return f"{outcome['verdict']}: {first['class']} {first['item']}"


def errors_of(outcome: JsonObject) -> list[JsonObject]:
    """The errors of *outcome*, in their order."""
    errors = outcome["errors"]
    return [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
