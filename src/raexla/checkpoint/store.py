"""Checkpoints: safetensors pieces + manifest, written under a temporary name and renamed when complete."""

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file
from torch import Tensor

from raexla.checkpoint.files import directory_when_complete, read_json, sha256, write_json
from raexla.recipe import UserError
from raexla.runtime import Runtime

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8})\Z")


def save(folder: Path, step: int, state: Mapping[str, Tensor], meta: Mapping[str, Any], runtime: Runtime) -> Path:
    """Write `state` as `folder/step-XXXXXXXX`.

    Args:
        folder: the run's `checkpoints` directory, seen by every process.
        state: name -> placed tensor, the same names on every process.
        meta: JSON values that go with it (cursor, recipe, versions ...).

    Returns:
        The checkpoint's directory.
    """
    path = folder / f"step-{step:08d}"
    if runtime.process_count > 1:
        raise NotSharedError("checkpoints of several processes need a shared writer")
    with directory_when_complete(path) as temporary:
        name = f"pieces-{runtime.process_index:05d}.safetensors"
        pieces: dict[str, np.ndarray] = {}
        tensors: dict[str, dict[str, Any]] = {}
        for key, tensor in state.items():
            entry: dict[str, Any] = {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "pieces": []}
            for number, piece in enumerate(runtime.local_pieces(tensor)):
                if piece.values.size == 0 and tensor.numel():
                    continue  # padding of an uneven split
                stored = f"{key}#{number}"
                pieces[stored] = np.asarray(piece.values, order="C").reshape(piece.values.shape)  # a scalar stays one
                entry["pieces"].append({"file": name, "key": stored, "offset": list(piece.offset)})
            tensors[key] = entry
        save_file(pieces, temporary / name)
        manifest = {
            "format": FORMAT,
            "step": step,
            "time": time.time(),
            "files": {name: {"sha256": sha256(temporary / name), "bytes": (temporary / name).stat().st_size}},
            "tensors": tensors,
            "meta": dict(meta),
        }
        write_json(temporary / MANIFEST, manifest)
    return path


class NotSharedError(UserError):
    """Several processes can't write one checkpoint yet."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk, opened for reading."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Read the manifest and check its format.

        Raises:
            UserError: not a checkpoint, or of a newer format.
        """
        if not (path / MANIFEST).is_file():
            raise UserError(f"{path} is not a checkpoint: it has no {MANIFEST}")
        manifest = read_json(path / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise UserError(f"{path} has checkpoint format {manifest.get('format')}, this program reads {FORMAT}")
        return cls(path, manifest)

    @property
    def step(self) -> int:
        """Optimiser steps done when it was saved."""
        return int(self.manifest["step"])

    @property
    def meta(self) -> Mapping[str, Any]:
        """The JSON values saved with it."""
        return self.manifest["meta"]

    def verify(self) -> None:
        """Read every file and compare its hash.

        Raises:
            UserError: names the files that differ or are missing.
        """
        wrong = [
            name
            for name, entry in self.manifest["files"].items()
            if not (self.path / name).is_file() or sha256(self.path / name) != entry["sha256"]
        ]
        if wrong:
            raise UserError(f"{self.path}: {', '.join(wrong)} missing or changed since it was written (sha256 differs)")

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        """Whole tensors by name, one at a time, for names that begin with `prefix`.

        Raises:
            UserError: a tensor's pieces don't make up its shape.
        """
        handles = {name: safetensors.safe_open(self.path / name, "np") for name in self.manifest["files"]}  # type: ignore[no-untyped-call]
        for key, entry in self.manifest["tensors"].items():
            if not key.startswith(prefix):
                continue
            parts = [(p["offset"], handles[p["file"]].get_tensor(p["key"])) for p in entry["pieces"]]
            if len(parts) == 1 and parts[0][1].size == math.prod(entry["shape"]):
                yield key, parts[0][1].reshape(entry["shape"])
                continue
            if sum(values.size for _, values in parts) != math.prod(entry["shape"]):
                raise UserError(f"{self.path}: the pieces of {key} are not the whole of {entry['shape']}")
            whole = np.empty(entry["shape"], dtype=parts[0][1].dtype)
            for offset, values in parts:
                whole[tuple(slice(o, o + n) for o, n in zip(offset, values.shape, strict=True))] = values
            yield key, whole

    def restore(self, state: Mapping[str, Tensor], runtime: Runtime) -> None:
        """Overwrite every tensor of `state`, on whatever devices it lies.

        Raises:
            UserError: names or shapes differ (all of them named), or a file is damaged.
        """
        self.verify()
        stored = self.manifest["tensors"]
        problems = [f"{key} is not in it" for key in state if key not in stored]
        problems += [f"{key} has no place in this run" for key in stored if key not in state]
        problems += [
            f"{key} is {stored[key]['shape']}, here {list(tensor.shape)}"
            for key, tensor in state.items()
            if key in stored and stored[key]["shape"] != list(tensor.shape)
        ]
        if problems:
            more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
            raise UserError(f"{self.path} does not fit this run: {'; '.join(problems[:8])}{more}")
        for key, values in self.tensors():
            runtime.assign(state[key], values)
        runtime.finish()


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.match(p.name) and (p / MANIFEST).is_file())


def latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, if there is one."""
    found = checkpoints(folder)
    return Checkpoint.open(found[-1]) if found else None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in checkpoints(folder)[:-keep]:
        rmtree(path)
