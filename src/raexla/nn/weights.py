"""Finding and reading a file of named tensors, safely and whichever of the two usual formats it is in."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from raexla.recipe import UserError

_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError)


def weights_file(path: str) -> str:
    """The local file that a user's path means: a file, a folder's `model.safetensors`, or that of a hub name such as
    `timm/vit_small_patch16_224.dino`.

    A path that ends as such files do stays as it is, there or not: `read_tensors` says so best.

    Raises:
        UserError: none of these.
    """
    place = Path(path)
    if place.is_dir():
        return str(place / "model.safetensors")
    if place.is_file() or place.suffix in {".pth", ".pt", ".bin", ".safetensors"}:
        return path
    from huggingface_hub import hf_hub_download  # only for hub names

    try:
        return hf_hub_download(path, "model.safetensors")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: neither a file, a folder nor a readable hub name ({reason})") from error


def read_tensors(path: str, what: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one that `torch.save` wrote (read with `weights_only`).

    Args:
        path: a local file.
        what: what it should hold, for the message ("VGG16's ImageNet weights").

    Raises:
        UserError: no such file, or it can't be read as named tensors.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; it should hold {what}")
    refused: Any = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
    try:
        content = load_file(path) if path.endswith(".safetensors") else torch.load(path, "cpu", weights_only=True)
    except (*_UNREADABLE, refused) as error:
        raise UserError(f"{path}: can't be read as {what} ({str(error).splitlines()[0][:200]})") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: holds no table of named tensors; it should hold {what}")
    return content
