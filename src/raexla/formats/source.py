"""A released file or folder, opened: its tensors (as views of the files, read when they are used) and its config."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from raexla.checkpoint.artifact import MANIFEST
from raexla.checkpoint.files import read_json
from raexla.nn.weights import read_tensors
from raexla.recipe import UserError

# in the order in which they are looked for; transformers prefers safetensors, too
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin", "model.pt", "stage2_model.pt", "stat.pt")
TORCH_SUFFIXES = {".pt", ".pth", ".bin"}
#: What a training checkpoint of RAE holds state dicts under.
NESTED = ("ema", "model")


@dataclass(frozen=True)
class Released:
    """What stands at a path."""

    path: Path
    tensors: Mapping[str, Tensor]
    files: tuple[Path, ...]
    """The files of weights."""
    config: Mapping[str, Any] | None
    """The `config.json` of a folder, or the one that was given apart."""
    state: str | None
    """Which of a training checkpoint's state dicts these are (`ema`, `model`); None for a bare one."""

    @property
    def folder(self) -> Path:
        """Where the weights are."""
        return self.path if self.path.is_dir() else self.path.parent


def open_released(path: Path, state: str | None = None, config: Path | None = None) -> Released:
    """Open a released file or folder without reading its weights.

    Args:
        state: which state dict of a training checkpoint is meant, `ema` or `model`; the EMA's if there is one.
        config: a `config.json` to use instead of the folder's.

    Raises:
        UserError: nothing there, weights that can't be read, or a choice that has to be made.
    """
    files = _files(path)
    tensors, found = _nested(_read(files), state, path)
    beside = (path if path.is_dir() else path.parent) / "config.json"
    place = config or (beside if beside.is_file() else None)
    if place is not None and not place.is_file():
        raise UserError(f"--config: {place} does not exist")
    content = read_json(place) if place is not None else None
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{place} holds no configuration: not a JSON object")
    return Released(path, tensors, files, content, found)


def _files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise UserError(f"{path} does not exist; give a downloaded file or folder")
    if (path / MANIFEST).is_file():
        raise UserError(f"{path} is an artifact already: it needs no import (`raexla ckpt show` says what it holds)")
    for name in INDICES:
        if (path / name).is_file():
            return _indexed(path, name)
    for name in SINGLE:
        if (path / name).is_file():
            return (path / name,)
    found = sorted(file for file in path.iterdir() if file.suffix in TORCH_SUFFIXES | {".safetensors"})
    if len(found) == 1:
        return (found[0],)
    if found:
        raise UserError(f"{path} holds {', '.join(file.name for file in found)}: give the one that is meant")
    raise UserError(f"{path} holds no weights ({', '.join((*INDICES, *SINGLE))} or a single .pt, .pth, .safetensors)")


def _indexed(path: Path, name: str) -> tuple[Path, ...]:
    index = read_json(path / name)
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not table:
        raise UserError(f"{path / name} is no index: it has no weight_map")
    names = sorted(set(table.values()))
    if absent := [shard for shard in names if not (path / shard).is_file()]:
        raise UserError(f"{path / name} names {len(names)} files; missing: {', '.join(absent)}")
    return tuple(path / shard for shard in names)


def _read(files: tuple[Path, ...]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for file in files:
        part = _open_safetensors(file) if file.suffix == ".safetensors" else _open_torch(file)
        if twice := sorted(content.keys() & part.keys()):
            raise UserError(f"{file} holds {twice[0]}, which stands in another file already")
        content |= part
    return content


def _open_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as handle:  # type: ignore[no-untyped-call]
            return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} can't be read as safetensors: {str(error).splitlines()[0]}") from error


def _open_torch(file: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(file):  # written before torch 1.6 (DINO's own files): can't be mapped
        return dict(read_tensors(str(file), "released weights"))
    unsafe: Any = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
    try:
        content = torch.load(file, "cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, unsafe) as error:
        raise UserError(f"{file} can't be read as weights: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no table of named tensors, but {type(content).__name__}")
    return content


def _nested(content: dict[str, Any], state: str | None, path: Path) -> tuple[dict[str, Tensor], str | None]:
    inner = {name: content[name] for name in NESTED if isinstance(content.get(name), dict)}
    if inner:
        chosen = state or ("ema" if "ema" in inner else None)
        if chosen is None:
            raise UserError(
                f"{path} holds the raw weights of a training run, no EMA: say --state model if they are meant"
            )
        if chosen not in inner:
            raise UserError(f"--state {chosen}: {path} holds {' and '.join(inner)}")
        content = dict(inner[chosen])
    elif state is not None:
        raise UserError(f"--state {state}: {path} holds one state dict only; leave the option out")
    others = [f"{key} ({type(value).__name__})" for key, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise UserError(f"{path} holds no table of named tensors: {', '.join(others[:5]) or 'it is empty'}")
    return content, (chosen if inner else None)


def config_json(value: Mapping[str, Any]) -> bytes:
    """A configuration as Hugging Face writes it."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
