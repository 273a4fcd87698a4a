"""What a storage client's error means, and how long a transport failure is retried.

Clients don't agree on errors: gcsfs raises its own `HttpError`, s3fs plain `OSError`s, fsspec's HTTP client
`FileNotFoundError` for whatever went wrong, and a cut JSON or XML body comes out as a parser's error. Here each is one
of four: there is no such file; access is denied; the request itself is refused; anything else is the transport's.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from raexla.recipe import UserError

T = TypeVar("T")

Meaning = Literal["missing", "denied", "refused", "transport"]

_OPTIONAL = (
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("botocore.parsers", "ResponseParserError"),
)
_NO_CREDENTIALS = ("DefaultCredentialsError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
_PASSING = (408, 425, 429)
"""Answers of the 4xx family that are worth another try."""


class FileUnavailable(UserError):
    """Storage could not be reached, after retries where these make sense."""


class FileMissing(FileUnavailable):
    """There is no such file: the storage says so, no failure of the way to it."""


class FileDamaged(UserError):
    """A file isn't what it should be: cut short, replaced, not of its kind."""


@dataclass(frozen=True)
class Retry:
    """How often and how long a transport failure is retried.

    Sleeps are uniform in [0, first x 2^n], at most `longest`. No try begins after the deadline. A try on a network file
    system is given up after `patience_seconds` and what its bytes take at `slowest_bytes_per_second`, and on GCS a
    connection after `silence_seconds` without a byte, so that one that hangs is a failure like another.
    """

    attempts: int = 10
    first_seconds: float = 0.5
    longest_seconds: float = 20.0
    deadline_seconds: float = 300.0
    silence_seconds: float = 20.0
    patience_seconds: float = 60.0
    slowest_bytes_per_second: int = 1 << 20
    sleep: Callable[[float], None] = time.sleep

    def call(self, what: str, work: Callable[[], T]) -> T:
        """Run `work`; raise `FileUnavailable` when it is missing, denied or keeps failing."""
        began = time.monotonic()
        for attempt in range(1, self.attempts + 1):
            try:
                return work()
            except transport_errors() as error:
                meant, said = meaning(error), str(error).strip() or type(error).__name__
                if meant == "missing":
                    raise FileMissing(f"{what}: there is no such file") from None
                if meant == "denied":
                    raise FileUnavailable(f"{what}: {_denied(what)} ({said})") from None
                if meant == "refused":
                    raise FileUnavailable(f"{what}: the storage refuses the request: {said}") from None
                spent = time.monotonic() - began
                wait = random.uniform(0, min(self.longest_seconds, self.first_seconds * 2**attempt))
                if attempt == self.attempts or spent + wait > self.deadline_seconds:
                    raise FileUnavailable(
                        f"{what}: still failing after {attempt} attempts in {spent:.1f} s: {said}"
                    ) from error
            self.sleep(wait)
        raise AssertionError("unreachable: attempts is at least 1")

    def patience(self, count: int = 0) -> float:
        """Seconds that a try which moves so many bytes may take."""
        return self.patience_seconds + count / self.slowest_bytes_per_second


def transport_errors() -> tuple[type[Exception], ...]:
    """What storage clients raise; those of optional clients are looked up among the modules already loaded."""
    found: list[type[Exception]] = [OSError, EOFError, TimeoutError, json.JSONDecodeError]
    for module, name in _OPTIONAL:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            found.append(kind)
    return tuple(found)


def meaning(error: BaseException) -> Meaning:
    """What one of `transport_errors` says about the file."""
    status = _status(error)
    if status is not None:
        return _of_status(status)
    if isinstance(error, FileNotFoundError):
        cause = error.__cause__  # fsspec's HTTP client says so whatever happened
        return "missing" if cause is None or not isinstance(cause, transport_errors()) else meaning(cause)
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return "missing"
    if isinstance(error, PermissionError) or type(error).__name__ in _NO_CREDENTIALS:
        return "denied"
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs's 403
        return "denied"
    return "transport"


def _of_status(status: int) -> Meaning:
    if status in (404, 410):
        return "missing"
    if status in (401, 403):
        return "denied"
    return "refused" if 400 <= status < 500 and status not in _PASSING else "transport"


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error that has one."""
    found = getattr(error, "status", None) or getattr(error, "code", None)  # aiohttp; gcsfs
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    try:
        return int(found) if found is not None else None
    except (TypeError, ValueError):
        return None


def _denied(what: str) -> str:
    if what.startswith(("gs:", "gcs:")):
        return (
            "access denied; log in with `gcloud auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS "
            "name a service account's key file"
        )
    if what.startswith(("s3:", "s3a:")):
        return "access denied; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return "access denied"
