"""The exceptions that mean something to whoever started the program, and their exit codes.

Anything else that escapes is a bug (exit code 1). The command line (`raexla.cli`) is the only place that turns
these into messages and exit codes; library code raises them and never prints.
"""

from typing import ClassVar


class RaexlaError(Exception):
    """Base of the exceptions that end a run on purpose. `exit_code` is the process's exit code."""

    exit_code: ClassVar[int] = 1


class UserError(RaexlaError):
    """The user can put this right (a recipe, a path, an option): a clear line each, both numbers and what to do."""

    exit_code = 2


class BadDataError(RaexlaError):
    """The data is worse than the stated tolerance allows; the message names the rate, the limit and the quarantine."""

    exit_code = 3


class StopRequested(RaexlaError):
    """The run was asked to stop (SIGTERM, preemption, Ctrl-C once), has saved, and can be resumed."""

    exit_code = 75


class ProcessLost(RaexlaError):
    """Another process of the job is gone, so this one can't go on; nothing was saved now, the same command resumes."""

    exit_code = 76
