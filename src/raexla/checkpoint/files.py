"""Small file helpers: hashes, JSON, and writes that are whole or absent."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

from raexla.recipe import UserError


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either the old one or the whole new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON's and UTF-8's errors are ValueErrors
        raise UserError(f"{path} is damaged: not JSON ({error})") from error


@contextmanager
def directory_when_complete(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path` that takes its name when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.tmp")
    if temporary.exists():
        rmtree(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        rmtree(temporary, ignore_errors=True)
        raise
    if path.exists():
        old = path.with_name(f".{path.name}.old")
        rmtree(old, ignore_errors=True)  # of a program that was killed between the next two lines
        path.replace(old)
        temporary.replace(path)
        rmtree(old)
    else:
        temporary.replace(path)
