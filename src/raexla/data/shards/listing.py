"""What a file system says of each file without reading it: its size, and a stamp that changes when the file does."""

import os
from dataclasses import dataclass
from typing import Any

from raexla.data.shards.store import Store

_STAMPS = ("generation", "etag", "ETag", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True)
class Listed:
    """A file in a listing; `stamp` is "" where the file system has none, and sizes alone must do."""

    bytes: int
    stamp: str


def listing(store: Store) -> dict[str, Listed]:
    """Every file below the root by its relative name, from one listing."""
    if store.local:
        return {name: _local(store, name) for name in store.names()}
    return {name: Listed(int(info.get("size") or 0), _stamp(info)) for name, info in store.details().items()}


def _local(store: Store, name: str) -> Listed:
    try:
        status = os.stat(store.path(name))
    except OSError:  # a link to nothing: whoever reads it says so
        return Listed(0, "gone")
    return Listed(status.st_size, f"{status.st_ino}-{status.st_mtime_ns}-{status.st_ctime_ns}")


def _stamp(info: dict[str, Any]) -> str:
    return " ".join(f"{name}={info[name]}" for name in _STAMPS if info.get(name) is not None)
