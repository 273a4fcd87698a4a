"""Files under one root, local or on any fsspec URL: list, range reads with retries, writes that appear whole or not.

A transport failure is never a skip. It is retried with jittered back-off until a deadline, then raised as
`FileUnavailable`, which names the file, the attempts and the time. A file that is missing, or shorter than it should
be, is not a transport failure and is said at once. A body shorter than what was asked for, of a file that is long
enough, is one.
"""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from raexla.files.ranged import RangedFile
from raexla.files.retry import FileDamaged, FileUnavailable, Retry, meaning, transport_errors
from raexla.recipe import UserError

T = TypeVar("T")

BUFFER_BYTES = 8 << 20
"""What an opened remote file fetches at a time."""
LISTING_SECONDS = 120.0
"""Patience for a listing, which can take many requests, beyond that for one request."""
BLOCK_BYTES = 32 << 20
"""Larger files are uploaded in blocks of this size."""
_inherited: list[AbstractFileSystem] = []
"""File systems of a parent process; closing one of them in the child would cut the parent's connections."""


class Store:
    """The files under `url` (a path or an fsspec URL), by names relative to it.

    May be pickled, and used after a fork: connections belong to one process. Listings are never cached, so a file that
    another process has just written is seen.
    """

    def __init__(self, url: str | os.PathLike[str], retry: Retry | None = None) -> None:
        self.url = os.fspath(url).rstrip("/") or "/"
        self.retry = retry or Retry()
        self._filesystem, root = self._connect()
        self._process = os.getpid()
        self.root = root.rstrip("/")
        self.local = isinstance(self._filesystem, LocalFileSystem)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.url, self.retry)

    @property
    def filesystem(self) -> AbstractFileSystem:
        """This process's connection."""
        if self._process != os.getpid():
            _inherited.append(self._filesystem)
            self._filesystem, self._process = self._connect()[0], os.getpid()
        return self._filesystem

    def below(self, name: str) -> "Store":
        """The files under one folder of this store."""
        return Store(f"{self.url}/{name}" if name else self.url, self.retry)

    def path(self, name: str) -> str:
        """The name as the file system knows it."""
        return f"{self.root}/{name}" if name else self.root

    # --- what is there

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder. Not being able to tell is an error, not a no."""
        return self._info(name) is not None

    def is_folder(self, name: str = "") -> bool:
        """Whether there is such a folder."""
        if "http" in self._protocols():  # every folder of a web server is a file too: its listing
            return self._call(name, "isdir")
        info = self._info(name)
        return info is not None and info["type"] == "directory"

    def names(self, name: str = "") -> list[str]:
        """All files below a folder, relative to it, sorted; none if there is no such folder."""
        return list(self.details(name))

    def details(self, name: str = "") -> dict[str, dict[str, Any]]:
        """`names` with what the file system says of each, from one listing."""
        found = self._walk(name) if self._walks() else self._list(name, "find")
        base = self.path(name)
        return {path[len(base) :].lstrip("/"): found[path] for path in sorted(found) if path.rstrip("/") != base}

    def children(self, name: str = "") -> list[str]:
        """The files and folders right in a folder, by their last names, sorted; none if there is no such folder."""
        found = [entry["name"].rstrip("/") for entry in self._list(name, "ls")]
        return sorted({path.rpartition("/")[2] for path in found if path != self.path(name)})

    def size(self, name: str) -> int:
        """Bytes of a file."""
        if self.local:
            return self.retry.call(self._say(name), lambda: os.path.getsize(self.path(name)))
        size = self._call(name, "info")["size"]
        if size is None:
            raise UserError(f"{self._say(name)}: the server doesn't say how long it is; copy it first")
        return int(size)

    # --- read

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `[start, end)` of a file; fewer than that is an error, never an end."""
        if end is None and not self.local:
            end = max(start, self.size(name))
        data = self.retry.call(self._say(name), lambda: self._read_once(name, start, end))
        if end is not None and len(data) != end - start:
            raise FileDamaged(self._cut_short(name, start, len(data), end - start))
        return data

    def open(self, name: str) -> BinaryIO:
        """A seekable binary file for reading."""
        if self.local:
            return self.retry.call(self._say(name), lambda: open(self.path(name), "rb"))
        raw = RangedFile(lambda start, end: self.read(name, start, end), self.size(name))
        return io.BufferedReader(raw, BUFFER_BYTES)

    def download(self, name: str, path: Path) -> None:
        """Copy a file to a local one, which appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        with self.open(name) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target, BUFFER_BYTES)
        os.replace(partial, path)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """`read` of as many bytes as `buffer` has, into it."""
        if not self.local:
            buffer[:] = self.read(name, start, start + len(buffer))
            return
        with self.open(name) as file:
            file.seek(start)
            count = file.readinto(buffer)  # type: ignore[attr-defined]
        if count != len(buffer):
            raise FileDamaged(self._cut_short(name, start, count, len(buffer)))

    # --- write

    def write(self, name: str, source: BinaryIO) -> None:
        """Copy `source` from its start to `name`, which appears complete or not at all.

        A large one is streamed, block after block, and read anew by each try. Raises `FileUnavailable`.
        """
        size = source.seek(0, io.SEEK_END)
        if self.local:
            try:
                self._write_local(self.path(name), source)
            except OSError as error:
                raise FileUnavailable(f"{self._say(name)} can't be written: {error.strerror or error}") from error
        elif size <= BLOCK_BYTES:
            source.seek(0)
            self._send(name, _read_fully(source, size))
        else:
            self._send(name, source)

    def write_bytes(self, name: str, data: bytes) -> None:
        """`write` for bytes in memory."""
        self.write(name, io.BytesIO(data))

    def upload(self, path: Path, name: str) -> None:
        """`write` for a local file."""
        with path.open("rb") as source:
            self.write(name, source)

    def remove(self, name: str) -> None:
        """Delete a file; one that isn't there is no error, since a try whose answer was lost has deleted it."""

        def delete() -> None:
            with suppress_missing():
                self.filesystem.rm_file(self.path(name), **self._patience())

        self.retry.call(self._say(name), delete)

    def remove_folder(self, name: str) -> None:
        """Delete all files below a folder, and the folder where there are folders."""
        if self.local:
            with suppress_missing():
                shutil.rmtree(self.path(name))
            return
        below = self.below(name)
        for file in below.names():
            below.remove(file)

    # --- the file system's calls

    def _connect(self) -> tuple[AbstractFileSystem, str]:
        options: dict[str, Any] = {"use_listings_cache": False}
        try:
            if self.url.startswith(("gs://", "gcs://")):  # gcsfs waits for ever otherwise
                options["requests_timeout"] = _silence(self.retry.silence_seconds)
            return fsspec.core.url_to_fs(self.url, **options)
        except (ValueError, ImportError) as error:
            raise UserError(f"{self.url}: {error}") from None

    def _protocols(self) -> tuple[str, ...]:
        named = self.filesystem.protocol
        return (named,) if isinstance(named, str) else tuple(named)

    def _patience(self, count: int = 0, more: float = 0.0) -> dict[str, Any]:
        """The time limit of a call that moves so many bytes; only asynchronous file systems have one."""
        waits = isinstance(self.filesystem, AsyncFileSystem)
        return {"timeout": self.retry.patience(count) + more} if waits else {}

    def _call(self, name: str, function: str, more: float = 0.0, **options: Any) -> Any:
        def work() -> Any:
            return getattr(self.filesystem, function)(self.path(name), **options, **self._patience(0, more))

        return self.retry.call(self._say(name), work)

    def _info(self, name: str) -> dict[str, Any] | None:
        def work() -> dict[str, Any] | None:
            with suppress_missing():
                return self.filesystem.info(self.path(name), **self._patience())
            return None

        return self.retry.call(self._say(name), work)

    def _list(self, name: str, function: str) -> Any:
        def work() -> Any:
            with suppress_missing():
                list_ = getattr(self.filesystem, function)
                return list_(self.path(name), detail=True, **self._patience(0, LISTING_SECONDS))
            return {}

        return self.retry.call(self._say(name), work)

    def _walks(self) -> bool:
        """Whether this file system lists a tree folder by folder, by fsspec's general way.

        That way passes over folders that can't be read, below the first one even if it is told not to.
        """
        kind = type(self.filesystem)
        return getattr(kind, "_find", None) is AsyncFileSystem._find or kind.find is AbstractFileSystem.find

    def _walk(self, name: str) -> dict[str, dict[str, Any]]:
        found, folders = {}, [self.path(name)]
        base = self.path("")
        while folders:
            folder = folders.pop()
            for entry in self._list(folder[len(base) :].lstrip("/"), "ls"):
                path = entry["name"].rstrip("/")
                if entry["type"] != "directory":
                    found[entry["name"]] = entry
                elif path.startswith(f"{folder.rstrip('/')}/"):
                    folders.append(path)
        return found

    def _read_once(self, name: str, start: int, end: int | None) -> bytes:
        if self.local:
            with open(self.path(name), "rb", buffering=0) as file:
                file.seek(start)
                return _read_fully(file, None if end is None else end - start)
        assert end is not None
        if end <= start:
            return b""
        data = self.filesystem.cat_file(self.path(name), start=start, end=end, **self._patience(end - start))
        if start and len(data) >= end:  # a web server that knows no ranges sends all of it
            data = data[start:end]
        if len(data) != end - start and self.filesystem.info(self.path(name), **self._patience())["size"] >= end:
            raise EOFError(f"a body of {len(data)} bytes where {end - start} were asked for")
        return bytes(data)

    def _write_local(self, path: str, source: BinaryIO) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        partial = f"{path}.partial"
        with open(partial, "wb") as target:
            source.seek(0)
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        os.replace(partial, path)

    def _send(self, name: str, source: bytes | BinaryIO) -> None:
        """Upload with retries, then look whether all of it is there.

        A session of which an answer was lost may be refused or unknown afterwards; another try begins a new one.
        """
        path, lost = self.path(name), 0
        size = len(source) if isinstance(source, bytes) else source.seek(0, io.SEEK_END)

        def work() -> None:
            nonlocal lost
            try:
                if isinstance(source, bytes):
                    self.filesystem.pipe_file(path, source, **self._how(source), **self._patience(size))
                else:
                    self._stream(path, source, size)
            except transport_errors() as error:
                lost += meaning(error) in ("missing", "refused")
                if meaning(error) == "denied" or lost > 2:  # no such bucket, or something wrong with the file
                    raise
                raise ConnectionError(f"the upload was lost on the way: {error}") from error
            there = self.filesystem.info(path, **self._patience())["size"]
            if there != size:
                raise EOFError(f"{there} bytes arrived where {size} were sent")

        self.retry.call(self._say(name), work)

    def _how(self, data: bytes) -> dict[str, Any]:
        """gcsfs sends a small file between two lines of one fixed text, and a file that ends in a carriage return, or
        has such a line itself, arrives cut; sent as a single block of a resumable upload it arrives as it is."""
        if "gs" in self._protocols() and (data.endswith(b"\r") or b"\n--==0==" in data):
            return {"chunksize": len(data)}
        return {}

    def _stream(self, path: str, source: BinaryIO, size: int) -> None:
        source.seek(0)
        target = self.filesystem.open(path, "wb", block_size=BLOCK_BYTES)
        try:
            while size > 0 and (piece := source.read(min(size, BLOCK_BYTES))):  # a log may grow meanwhile
                target.write(piece)
                size -= len(piece)
            target.close()
        except BaseException:
            target.closed = True  # closing it would show what is there so far as the whole
            if "gs" not in self._protocols():  # GCS forgets unfinished uploads by itself, S3 wants to be paid for them
                with suppress(*transport_errors()):
                    target.discard()
            raise

    def _cut_short(self, name: str, start: int, found: int, wanted: int) -> str:
        return (
            f"{self._say(name)}: {found} of the {wanted} bytes from {start} on: the file was cut short or replaced; "
            "`raexla shards verify` (or `raexla ckpt verify`) says what is left"
        )

    def _say(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url


def _silence(seconds: float) -> Any:
    """aiohttp's limit on the time in which nothing comes."""
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, connect=seconds, sock_connect=seconds, sock_read=seconds)


@contextmanager
def suppress_missing() -> Iterator[None]:
    """Pass over errors that say that there is no such file."""
    try:
        yield
    except transport_errors() as error:
        if meaning(error) != "missing":
            raise


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
