"""Checkpoints that are there: opened, verified, read in parts, restored onto whatever devices."""

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raexla.checkpoint.layout import damaged, entries, read_manifest
from raexla.checkpoint.pieces import DTYPE_NAMES, DTYPES, as_bytes, elements
from raexla.files import FileDamaged, FileUnavailable, Store
from raexla.recipe import UserError
from raexla.runtime import Runtime
from raexla.runtime.base import Part

SPAN_BYTES = 4 << 20
"""Small pieces that lie together are read together, up to so many bytes; larger ones straight to where they belong."""
READERS = 8
"""Spans that are read at a time, at most."""


@dataclass(frozen=True)
class _Span:
    """Neighbouring pieces of one file."""

    file: str
    pieces: tuple[dict[str, Any], ...]

    @property
    def start(self) -> int:
        return int(self.pieces[0]["start"])

    @property
    def end(self) -> int:
        return int(self.pieces[-1]["start"] + self.pieces[-1]["bytes"])


@dataclass(frozen=True)
class Loaded:
    """What a restore has done: names taken, names of the run that were left, names of the checkpoint that were not
    used."""

    taken: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]


class Checkpoint:
    """A complete checkpoint, opened for reading.

    Args:
        store: its folder.
    """

    def __init__(self, store: Store, manifest: Mapping[str, Any]) -> None:
        self.store, self.manifest = store, manifest

    @classmethod
    def open(cls, place: str | os.PathLike[str] | Store) -> "Checkpoint":
        """Read the manifest and hold it against the marker; no file of pieces is opened.

        Raises:
            UserError: not a checkpoint, damaged, or of another format.
        """
        store = place if isinstance(place, Store) else Store(place)
        return cls(store, read_manifest(store))

    @property
    def url(self) -> str:
        """Where it lies."""
        return self.store.url

    @property
    def path(self) -> Path:
        """Its folder on a local disk."""
        return Path(self.store.root)

    @property
    def step(self) -> int:
        """Optimiser steps done when it was saved."""
        return int(self.manifest["step"])

    @property
    def meta(self) -> Mapping[str, Any]:
        """The JSON values saved with it."""
        return self.manifest["meta"]

    @property
    def bytes(self) -> int:
        """Of its files of pieces."""
        return sum(int(entry["bytes"]) for entry in self.manifest["files"].values())

    def problems(self) -> list[str]:
        """Read every byte and compare its hash: each file that is missing or differs, and where."""
        found: list[str] = []
        for name, entry in self.manifest["files"].items():
            try:
                self._check_file(name, entry)
            except (FileDamaged, FileUnavailable, UserError) as error:
                found.append(f"{name}: {_after(str(error), name)}")
        bad: dict[str, list[str]] = {}
        skipped = {line.partition(": ")[0] for line in found}
        spans = [span for span in self._spans(self.manifest["tensors"]) if span.file not in skipped]
        for span, outcome in _in_parallel(spans, self._differing):
            bad.setdefault(span.file, []).extend(outcome)
        found += [f"{name}: sha256 differs in {_some(keys)}" for name, keys in bad.items() if keys]
        return found

    def verify(self) -> None:
        """Read every byte and compare its hash.

        Raises:
            CheckpointDamaged: names every file that is missing or differs.
        """
        if problems := self.problems():
            name, _, what = problems[0].partition(": ")
            more = [f"{problem.partition(': ')[0]} too" for problem in problems[1:]]
            raise damaged(self.url, name, ", ".join([what, *more]))

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        """Whole tensors by name, one at a time, for names that begin with `prefix`; bfloat16 comes as float32.

        Raises:
            CheckpointDamaged: a piece isn't what was written.
        """
        for key, entry in self.manifest["tensors"].items():
            if key.startswith(prefix):
                whole = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
                self._fill({key: [Part(tuple(slice(0, n) for n in entry["shape"]), whole)]})
                yield key, (whole.float() if whole.dtype == torch.bfloat16 else whole).numpy()

    def restore(
        self, state: Mapping[str, Tensor], runtime: Runtime, take: Sequence[str] = (), leave: Sequence[str] = ()
    ) -> Loaded:
        """Overwrite the tensors of `state`, on whatever devices they lie; only what this process's devices hold is
        read, and each piece that is read is held against its hash. After an error the state is worth nothing.

        Args:
            take: patterns of names; if there are any, only these are overwritten, and what else is in the checkpoint is
                left there. All and nothing else must be there if there are none.
            leave: patterns of names that are not to be taken all the same.

        Raises:
            UserError: names, shapes or types differ (all of them named).
            CheckpointDamaged: a file that was read isn't what was written.
        """
        stored = self.manifest["tensors"]
        chosen = {key: tensor for key, tensor in state.items() if _matches(key, take or ("*",), leave)}
        problems = [f"{key} is not in it" for key in chosen if key not in stored]
        if not take:
            problems += [f"{key} has no place in this run" for key in stored if key not in state]
        for pattern in (*take, *leave):
            if not any(fnmatchcase(key, pattern) for key in state):
                problems.append(f"no tensor of this run is called {pattern}")
        for key, tensor in chosen.items():
            if key in stored:
                there = (stored[key]["shape"], stored[key]["dtype"])
                here = (list(tensor.shape), DTYPE_NAMES[tensor.dtype])
                if there[0] != here[0]:
                    problems.append(f"{key} is {there[0]}, here {here[0]}")
                elif there[1] != here[1]:
                    problems.append(f"{key} is {there[1]}, here {here[1]}")
        if problems:
            more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
            raise UserError(f"{self.url} does not fit this run: {'; '.join(problems[:8])}{more}")
        for name in {piece["file"] for key in chosen for piece in stored[key]["pieces"]}:
            self._check_file(name, self.manifest["files"][name])
        self._into(chosen, runtime)
        runtime.finish()
        left = tuple(key for key in state if key not in chosen)
        return Loaded(tuple(chosen), left, tuple(key for key in stored if key not in chosen))

    # -- the parts --

    def _into(self, state: Mapping[str, Tensor], runtime: Runtime) -> None:
        """Fill tensor after tensor, each as soon as all of its pieces have come."""
        wanted: dict[str, list[Part]] = {}
        missing: dict[str, int] = {}
        needed: dict[str, list[dict[str, Any]]] = {}
        for key, tensor in state.items():
            regions = [part.region for part in runtime.parts(tensor)]
            needed[key] = [p for p in self.manifest["tensors"][key]["pieces"] if any(_overlap(p, r) for r in regions)]
            missing[key] = len(needed[key])
        for key in (key for key, count in missing.items() if not count):  # of no elements
            runtime.take(state[key], runtime.parts(state[key]))

        def begin(span: _Span) -> None:
            for piece in span.pieces:
                key = _key(piece)
                if key not in wanted:
                    wanted[key] = runtime.parts(state[key])

        def end(span: _Span) -> None:
            for piece in span.pieces:
                key = _key(piece)
                missing[key] -= 1
                if not missing[key]:
                    runtime.take(state[key], wanted.pop(key))

        spans = self._spans({key: {"pieces": pieces} for key, pieces in needed.items()})
        for span, _ in _in_parallel(spans, lambda span: self._copy(span, wanted), begin):
            end(span)

    def _fill(self, wanted: Mapping[str, list[Part]]) -> None:
        """Read what the parts need."""
        tensors = {key: self.manifest["tensors"][key] for key in wanted}
        for _ in _in_parallel(self._spans(tensors), lambda span: self._copy(span, wanted)):
            pass

    def _copy(self, span: _Span, wanted: Mapping[str, list[Part]]) -> None:
        straight = self._straight(span.pieces[0], wanted) if len(span.pieces) == 1 else None
        data = self._read(span, straight)
        if straight is not None:
            self._checked(span, span.pieces[0], data)
            return
        for piece in span.pieces:
            own = self._checked(span, piece, data)
            dtype = DTYPES[self.manifest["tensors"][_key(piece)]["dtype"]]
            values = torch.frombuffer(own, dtype=dtype).reshape(piece["shape"])
            for part in wanted[_key(piece)]:
                if (both := _overlap(piece, part.region)) is not None:
                    there, here = both
                    part.into[here] = values[there]

    def _straight(self, piece: Mapping[str, Any], wanted: Mapping[str, list[Part]]) -> memoryview | None:
        """The memory that a piece goes to, if it goes to one place only and lies there as in the file."""
        found = [(part, both[1]) for part in wanted[_key(piece)] if (both := _overlap(piece, part.region)) is not None]
        if len(found) != 1:
            return None
        into = found[0][0].into[found[0][1]]
        return as_bytes(into) if list(into.shape) == piece["shape"] and into.is_contiguous() else None

    def _differing(self, span: _Span) -> list[str]:
        try:
            data = self._read(span)
        except UserError as error:
            return [_after(str(error), span.file)]
        at = span.start
        return [
            piece["key"]
            for piece in span.pieces
            if hashlib.sha256(data[piece["start"] - at : piece["start"] - at + piece["bytes"]]).hexdigest()
            != piece["sha256"]
        ]

    def _read(self, span: _Span, into: memoryview | None = None) -> memoryview:
        data = into if into is not None else memoryview(bytearray(span.end - span.start))
        try:
            self.store.read_into(span.file, span.start, data)
            return data
        except FileDamaged as error:
            raise damaged(self.url, span.file, _after(str(error), span.file)) from error

    def _checked(self, span: _Span, piece: Mapping[str, Any], data: memoryview) -> memoryview:
        at = piece["start"] - span.start
        own = data[at : at + piece["bytes"]]
        if hashlib.sha256(own).hexdigest() != piece["sha256"]:
            raise damaged(self.url, span.file, f"sha256 of {piece['key']} differs")
        return own

    def _check_file(self, name: str, entry: Mapping[str, Any]) -> None:
        """Length and header of a file of pieces."""
        try:
            size = self.store.size(name)
            if size != entry["bytes"]:
                raise damaged(self.url, name, f"{size} bytes, {entry['bytes']} were written")
            header = self.store.read(name, 0, entry["header_bytes"])
        except (FileUnavailable, FileDamaged) as error:
            raise damaged(self.url, name, _after(str(error), name)) from error
        if hashlib.sha256(header).hexdigest() != entry["header_sha256"]:
            raise damaged(self.url, name, "sha256 of its header differs")

    def _spans(self, tensors: Mapping[str, Mapping[str, Any]]) -> list[_Span]:
        """The pieces of some tensors as stretches of files, in the order of the tensors."""
        order = {key: number for number, key in enumerate(tensors)}
        files: dict[str, list[dict[str, Any]]] = {}
        for entry in tensors.values():
            for piece in entry["pieces"]:
                files.setdefault(piece["file"], []).append(piece)
        spans = []
        for name, pieces in files.items():
            group: list[dict[str, Any]] = []
            for piece in sorted(pieces, key=lambda piece: piece["start"]):
                together = bool(group) and piece["start"] == group[-1]["start"] + group[-1]["bytes"]
                if group and not (together and piece["start"] + piece["bytes"] - group[0]["start"] <= SPAN_BYTES):
                    spans.append(_Span(name, tuple(group)))
                    group = []
                group.append(piece)
            spans.append(_Span(name, tuple(group)))
        return sorted(spans, key=lambda span: min(order[_key(piece)] for piece in span.pieces))


def latest(folder: str | os.PathLike[str]) -> Checkpoint | None:
    """The newest complete checkpoint of a `checkpoints` folder, if there is one.

    Raises:
        UserError: the newest one is damaged. An older one is never taken in its place.
    """
    store = Store(folder)
    found = entries(store)
    if not store.local:  # without the marker it isn't there
        found = [entry for entry in found if entry.complete]
    return Checkpoint.open(store.below(found[-1].name)) if found else None


def checkpoints(folder: str | os.PathLike[str]) -> list[str]:
    """Places of the complete checkpoints in a `checkpoints` folder, oldest first."""
    store = Store(folder)
    return [f"{store.url}/{entry.name}" for entry in entries(store) if entry.complete]


def _key(piece: Mapping[str, Any]) -> str:
    return str(piece["key"]).rpartition("@")[0]


def _overlap(piece: Mapping[str, Any], region: Sequence[slice]) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """What a piece and a region share: in the piece's coordinates, and in the region's."""
    there, here = [], []
    for offset, size, wanted in zip(piece["offset"], piece["shape"], region, strict=True):
        low, high = max(offset, wanted.start), min(offset + size, wanted.stop)
        if low >= high:
            return None
        there.append(slice(low - offset, high - offset))
        here.append(slice(low - wanted.start, high - wanted.start))
    return tuple(there), tuple(here)


def _in_parallel(spans: Iterable[_Span], work: Any, begin: Any = lambda span: None) -> Iterator[tuple[_Span, Any]]:
    """`work` of each span in threads, a few ahead; results in the spans' order. `begin` is called here, before."""
    workers = max(2, min(READERS, os.cpu_count() or 2))
    with ThreadPoolExecutor(workers, "checkpoint-reader") as pool:
        ahead: deque[tuple[_Span, Future[Any]]] = deque()
        try:
            for span in spans:
                begin(span)
                ahead.append((span, pool.submit(work, span)))
                if len(ahead) > workers:
                    done, future = ahead.popleft()
                    yield done, future.result()
            while ahead:
                done, future = ahead.popleft()
                yield done, future.result()
        finally:
            for _, future in ahead:
                future.cancel()


def _matches(key: str, take: Sequence[str], leave: Sequence[str]) -> bool:
    return any(fnmatchcase(key, p) for p in take) and not any(fnmatchcase(key, p) for p in leave)


def _after(said: str, name: str) -> str:
    """An error's text without the place that it begins with."""
    return said.rpartition(f"{name}: ")[2].partition(". This checkpoint is damaged")[0]


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def complete(tensors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tensors of a manifest whose pieces don't add up to the whole."""
    return [key for key, entry in tensors.items() if elements(entry["pieces"]) != math.prod(entry["shape"])]
