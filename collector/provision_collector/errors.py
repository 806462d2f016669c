"""Every error that is raised on purpose, each with the exit code of the command that meets it."""

from __future__ import annotations

from collections.abc import Sequence

from provision_agent.contract.failures import FAILURES


class ProvisionError(Exception):
    """Expected trouble. `str()` says what happened and why; `hint` what to type next."""

    exit_code = 1
    verdict = "failed"

    def __init__(self, message: str, *, hint: str = "", cause: str = "") -> None:
        super().__init__(message)
        self.hint = hint or (FAILURES[cause].hint if cause in FAILURES else "")
        self.cause = cause or self.verdict
        """Its class for programs: what an `errors[]` entry of the outcome says."""


class UsageError(ProvisionError):
    """The command cannot mean anything: wrong words, an unknown run, a mirror that is locked or was edited."""

    exit_code = 2
    verdict = "usage"


class ProfileError(ProvisionError):
    """The profile is wrong. `problems` has every one as ``file:line:column: message``."""

    exit_code = 3
    verdict = "profile"

    def __init__(self, problems: Sequence[str], *, hint: str = "") -> None:
        super().__init__(
            "\n".join(problems), hint=hint or "correct the lines above; `provision check` reads them again"
        )
        self.problems = list(problems)


class RefusedError(ProvisionError):
    """Another plan's run is going on the instance; `differences` says how it differs."""

    exit_code = 4
    verdict = "refused"

    def __init__(self, message: str, *, hint: str = "", differences: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.differences = list(differences)


class HostUnreachableError(ProvisionError):
    """Never got in. `cause`: unknown-name | refused | timed-out | reset | no-route | no-exec | no-python | closed."""

    exit_code = 10
    verdict = "unreachable"

    def __init__(self, message: str, *, hint: str = "", cause: str = "closed") -> None:
        super().__init__(message, hint=hint, cause=cause)


class HostKeyError(ProvisionError):
    """The host's key is unknown, or not the one that was seen before."""

    exit_code = 11
    verdict = "host-key"


class ContactLostError(ProvisionError):
    """Was in, could not come back in time; the run may go on."""

    exit_code = 12
    verdict = "contact-lost"


class AuthRefusedError(ProvisionError):
    """The instance does not take this user with this key, and the time for it to boot is over."""

    exit_code = 13
    verdict = "auth-refused"


class AgentLostError(ProvisionError):
    """Agent and keeper died without a verdict and could not be started again; or nobody can understand what they say."""

    exit_code = 14
    verdict = "agent-lost"


class ProtocolFaultError(ProvisionError):
    """The instance says what no agent says. A command that only asked ends with 1; a run that is watched is lost.

    Args:
        misfit: What does not fit, as `ParseError` words it.
        hint: What to type next, where there is better advice than that of the class.
    """

    def __init__(self, misfit: object, *, hint: str = "") -> None:
        super().__init__(
            f"the instance says what cannot be understood: {misfit}",
            hint=hint or FAILURES["protocol"].hint,
            cause="protocol",
        )

    def of_a_run(self) -> AgentLostError:
        """The same where a run is watched: its verdict is agent-lost."""
        return AgentLostError(str(self), hint=self.hint, cause=self.cause)


class InterruptedHereError(ProvisionError):
    """Somebody ended the command; what it began goes on."""

    exit_code = 130
    verdict = "cancelled"


class BugError(ProvisionError):
    """Something that was not foreseen: a bug in this tool, and nothing about the instance."""

    exit_code = 70
    verdict = "bug"


class LocalMachineError(ProvisionError):
    """This machine: disk full, no permission."""

    exit_code = 74
    verdict = "local"
