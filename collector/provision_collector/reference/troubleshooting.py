"""docs/TROUBLESHOOTING.md: every verdict and every class of error, with what to do, from the registries of `contract`."""

from __future__ import annotations

from provision_agent.contract.cases import CASES
from provision_agent.contract.failures import FAILURES
from provision_agent.contract.verdicts import NEXT, VERDICTS

from .markdown import code, head, table

_TEXT = (
    "A run ends with a verdict and an exit code; each error of it has a class. Both are the same on the terminal, in `--json`, "
    "over HTTP and in Python. Of one error the message says what happened and why, and the line `next:` what to do now."
)
_SCOPES = {
    "item": "this item",
    "host": "every item of that source",
    "run": "the instance as a whole",
}


def document() -> str:
    """The text of docs/TROUBLESHOOTING.md."""
    lines = head("Troubleshooting", "contract/verdicts.py, contract/failures.py and contract/cases.py", _TEXT)
    lines += ["## How a command ends", "", "The worst of many comes first.", ""]
    worst_first = sorted(VERDICTS.items(), key=lambda each: -each[1].severity)
    lines += table(
        ("verdict", "exit code", "meaning", "`next`"),
        (
            (code(name), str(each.code), each.meaning, code(each.next) if each.next else "by the errors")
            for name, each in worst_first
        ),
    )
    lines += ["SIGTERM ends a command with 143 in place of 130, SIGHUP with 129; a closed pipe with 141.", ""]
    lines += ["## What to do next", "", "The word `next` of the outcome, for programs.", ""]
    lines += table(("`next`", "what to do"), ((code(word), text or "nothing") for word, text in NEXT.items()))
    lines += ["## Classes of errors", "", "`class` of a failed item, step or run.", ""]
    lines += table(
        ("class", "what to do", "about", "the same again", "`next`"),
        (
            (
                code(name),
                each.hint,
                "the way to the instance" if each.is_of_contact else _SCOPES[each.scope],
                "may help" if each.is_retriable else "does not help",
                code(each.next),
            )
            for name, each in FAILURES.items()
        ),
    )
    lines += [
        "## Cases",
        "",
        "`case` of an error, where there is better advice than that of its class. `{…}` is what the error is about.",
        "",
    ]
    lines += table(
        ("case", "what to do", "`next`"),
        (
            (code(name), each.hint, code(each.next) if each.next else "by the class")
            for name, each in CASES.items()
        ),
    )
    lines += [
        "## Where to look",
        "",
        "* `provision doctor --host … --profile …` looks at everything that a run stands on: SSH, python3, disk, card, clock, sources.",
        "* `provision logs RUN` prints the core log, `--errors` the error log, `--events` every event ([EVENTS.md](EVENTS.md)).",
        "* On the instance: `.provision/runs/RUN/agent.log` has the output of every program that the run started.",
        "* `provision up` again with the same profile goes on where the last run ended: nothing verified is fetched twice.",
        "",
    ]
    return "\n".join(lines)
