"""Files under one root, local or on any fsspec URL: list, range reads with retries, writes that appear whole or not.

A transport failure is never a skip. It is retried with jittered back-off until a deadline, then raised as
`FileUnavailable`, which names the file, the attempts and the time. A file that is missing, or shorter than it should
be on a local disk, is not a transport failure and is said at once.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from raexla.recipe import UserError

T = TypeVar("T")


class FileUnavailable(UserError):
    """Storage could not be reached, after retries where these make sense."""


class FileDamaged(UserError):
    """A file isn't what it should be: cut short, replaced, not of its kind."""


@dataclass(frozen=True)
class Retry:
    """How often and how long a transport failure is retried; sleeps are uniform in [0, first x 2^n], at most
    `longest`."""

    attempts: int = 6
    first_seconds: float = 0.5
    longest_seconds: float = 20.0
    deadline_seconds: float = 120.0
    sleep: Callable[[float], None] = time.sleep

    def call(self, what: str, work: Callable[[], T]) -> T:
        """Run `work`; raise `FileUnavailable` when it is missing or keeps failing."""
        began = time.monotonic()
        for attempt in range(1, self.attempts + 1):
            try:
                return work()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise FileUnavailable(f"{what}: there is no such file") from None
            except PermissionError:
                raise FileUnavailable(f"{what}: no permission to read it") from None
            except transport_errors() as error:
                spent = time.monotonic() - began
                if attempt == self.attempts or spent > self.deadline_seconds:
                    said = str(error) or type(error).__name__
                    raise FileUnavailable(
                        f"{what}: still failing after {attempt} attempts in {spent:.1f} s: {said}"
                    ) from error
                self.sleep(random.uniform(0, min(self.longest_seconds, self.first_seconds * 2**attempt)))
        raise AssertionError("unreachable: attempts is at least 1")


def transport_errors() -> tuple[type[Exception], ...]:
    """What storage clients raise; those of optional clients are looked up among the modules already loaded."""
    found: list[type[Exception]] = [OSError, EOFError, TimeoutError]
    for module, name in (
        ("aiohttp", "ClientError"),
        ("gcsfs.retry", "HttpError"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
    ):
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            found.append(kind)
    return tuple(found)


class Store:
    """The files under `url` (a path or an fsspec URL), by names relative to it."""

    def __init__(self, url: str | os.PathLike[str], retry: Retry | None = None) -> None:
        self.url = os.fspath(url).rstrip("/") or "/"
        try:
            self.filesystem, self.root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise UserError(f"{self.url}: {error}") from None
        self.root = self.root.rstrip("/")
        self.local = isinstance(self.filesystem, LocalFileSystem)
        self.retry = retry or Retry()

    def path(self, name: str) -> str:
        """The name as the file system knows it."""
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder."""
        return self.retry.call(self._say(name), lambda: bool(self.filesystem.exists(self.path(name))))

    def is_folder(self) -> bool:
        """Whether the root is a folder."""
        return self.retry.call(self.url, lambda: bool(self.filesystem.isdir(self.root)))

    def names(self) -> list[str]:
        """All files below the root, relative, sorted."""
        found = self.retry.call(self.url, lambda: self.filesystem.find(self.root))
        return sorted(path[len(self.root) :].lstrip("/") for path in found)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        if self.local:
            return self.retry.call(self._say(name), lambda: os.path.getsize(self.path(name)))
        return int(self.retry.call(self._say(name), lambda: self.filesystem.info(self.path(name))["size"]))

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `[start, end)` of a file; fewer than that is an error, never an end."""
        data = self.retry.call(self._say(name), lambda: self._read_once(name, start, end))
        if end is not None and len(data) != end - start:
            raise FileDamaged(
                f"{self._say(name)}: {len(data)} of the {end - start} bytes from {start} on: the file was cut short "
                "or replaced; `raexla shards verify` (or `raexla ckpt verify`) says what is left"
            )
        return data

    def open(self, name: str) -> BinaryIO:
        """A seekable binary file for reading."""
        opened = self.retry.call(self._say(name), lambda: self.filesystem.open(self.path(name), "rb"))
        return opened  # type: ignore[return-value]

    def write(self, name: str, source: BinaryIO) -> None:
        """Copy `source` from its start to `name`, which appears complete or not at all."""
        source.seek(0)
        path = self.path(name)
        if self.local:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            partial = f"{path}.partial"
            with open(partial, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            os.replace(partial, path)
            return

        def upload() -> None:
            source.seek(0)
            with self.filesystem.open(path, "wb") as target:  # an object store shows it when it is closed
                shutil.copyfileobj(source, target, 1 << 20)  # type: ignore[arg-type]

        self.retry.call(self._say(name), upload)

    def write_bytes(self, name: str, data: bytes) -> None:
        """`write` for bytes in memory."""
        with tempfile.SpooledTemporaryFile(max_size=1 << 28) as file:
            file.write(data)
            self.write(name, file)  # type: ignore[arg-type]

    def remove(self, name: str) -> None:
        """Delete a file."""
        self.retry.call(self._say(name), lambda: self.filesystem.rm_file(self.path(name)))

    def _read_once(self, name: str, start: int, end: int | None) -> bytes:
        if self.local:
            with open(self.path(name), "rb", buffering=0) as file:
                file.seek(start)
                return _read_fully(file, None if end is None else end - start)
        data = self.filesystem.cat_file(self.path(name), start=start, end=end)
        if end is not None and len(data) < end - start and self.filesystem.info(self.path(name))["size"] >= end:
            raise EOFError(f"a body of {len(data)} bytes where {end - start} were asked for")
        return data

    def _say(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url


def _read_fully(file: BinaryIO, count: int | None) -> bytes:
    if count is None:
        return file.read()
    pieces = []
    while count > 0:
        piece = file.read(count)
        if not piece:
            break
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
