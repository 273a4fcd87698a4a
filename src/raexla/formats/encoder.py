"""The frozen encoder that a released model was trained on: which, and what grid of tokens it gives.

Released files don't hold it and don't say enough: it is named by an option, and the file's own sizes are checked
against its configuration.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from raexla.models.encoders import EncoderRecipe, build_encoder
from raexla.models.pretrained import read_config
from raexla.recipe import UserError
from raexla.sampling.codec import encoder_identity

# `model_type` in config.json -> the encoder types that it can be
_TYPES: dict[str, tuple[str, ...]] = {
    "siglip_vision_model": ("siglip2",),
    "siglip": ("siglip2",),
    "dinov2_with_registers": ("dinov2",),
    "dinov2": ("dinov2", "webssl"),
    "vit_mae": ("mae",),
}
TYPES = tuple(sorted({name for names in _TYPES.values() for name in names}))


@dataclass(frozen=True)
class NamedEncoder:
    """An encoder as its recipe names it, with what later stages check."""

    recipe: EncoderRecipe
    identity: str
    """Hash of a local folder, else the hub name."""
    grid: tuple[int, int]
    channels: int
    pixels: int
    """Side of the square that it sees."""
    lines: tuple[str, ...] = ()
    """What followed from the file and is worth saying."""


def name_encoder(path: str | None, kind: str | None, tokens: int | None, wanted: str) -> NamedEncoder:
    """The encoder of `--encoder` and `--encoder-type`.

    Args:
        path: folder or hub name.
        kind: its type; needed where its `config.json` fits two.
        tokens: how many tokens the released file was made for: where the encoder's own size gives another number, its
            input size is the one that gives this number.
        wanted: what needs it, for messages ("the tower google/siglip2-..., which config.json names").

    Raises:
        UserError: no encoder was named, it can't be read, or it can't give so many tokens.
    """
    import torch

    if path is None:
        raise UserError(f"{wanted}: give its folder or hub name by --encoder")
    accepted = {name: name for name in _TYPES}
    found = read_config(path, accepted, "--encoder")["model_type"]
    types = _TYPES[found]
    if kind is None and len(types) > 1:
        raise UserError(f"--encoder {path} (model_type {found!r}) may be {' or '.join(types)}: say --encoder-type")
    if kind is not None and kind not in types:
        raise UserError(f"--encoder-type {kind}: {path} has model_type {found!r}, which is {' or '.join(types)}")
    values: dict[str, Any] = {"type": kind or types[0], "path": path}
    with torch.device("meta"):
        encoder = build_encoder(_recipe(values))
    lines: list[str] = []
    native = encoder.grid[0] * encoder.grid[1]
    if tokens is not None and tokens != native:
        side = square_side(tokens, "the released file")
        values["input_size"] = side * encoder.patch_size
        lines.append(
            f"encoder input {values['input_size']} pixels ({side} x {side} tokens of patch {encoder.patch_size}), "
            f"not its own {encoder.input_size} ({encoder.grid[0]} x {encoder.grid[1]}): the file is for {tokens} tokens"
        )
        with torch.device("meta"):
            encoder = build_encoder(_recipe(values))
    return NamedEncoder(
        _recipe(values), encoder_identity(path), encoder.grid, encoder.channels, encoder.input_size, tuple(lines)
    )


def square_side(tokens: int, what: str) -> int:
    """The side of a square grid of so many tokens.

    Raises:
        UserError: it is no square number.
    """
    side = round(tokens**0.5)
    if side * side != tokens:
        raise UserError(f"{what} is for {tokens} tokens, which is no square grid")
    return side


def _recipe(values: dict[str, Any]) -> EncoderRecipe:
    recipe: EncoderRecipe = TypeAdapter(EncoderRecipe).validate_python(values)
    return recipe


def folder_name(path: Path) -> str:
    """How a released file or folder is called in reports: its last two names."""
    return "/".join(path.resolve().parts[-2:])
