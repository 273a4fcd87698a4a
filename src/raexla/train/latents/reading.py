"""Rows of a shard, their pictures decoded and brought to size: work for processes that know no device."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from raexla.data import Refused, SourceRecipe, build_transform, decode_image
from raexla.data.latents import LATENT, REFUSED, pack_refusal
from raexla.data.layouts import open_reader
from raexla.data.layouts.reader import Tars
from raexla.data.shards import LeftOut
from raexla.data.shards.tar import IMAGE_EXTENSIONS
from raexla.data.shards.writer import reads_back
from raexla.data.transforms import AnyTransformRecipe, decoded_at_least
from raexla.recipe import UserError


@dataclass
class Chunk:
    """Neighbouring rows of a shard. S: side of the pictures."""

    keys: list[str] = field(default_factory=list)
    members: list[dict[str, bytes]] = field(default_factory=list)
    """What is kept of each row."""
    pixels: list[np.ndarray | None] = field(default_factory=list)
    """uint8 [S, S, 3]; None for a row without a picture, or with one that can't be used."""
    refused: list[LeftOut] = field(default_factory=list)
    """Pictures that can't be used."""


def open_tars(source: SourceRecipe) -> Tars:
    """The source's shards.

    Raises:
        UserError: it has none; it holds latents already.
    """
    if source.latents is not None:
        raise UserError(f"data.sources: {source.name} holds latents already; name the source that holds its pictures")
    reader = open_reader(
        source.path, layout=source.layout, images=source.images, only=source.only, missing=source.missing
    )
    try:
        names = reader.shard_names if isinstance(reader, Tars) else None
    except AttributeError:  # several places, one of them a list
        names = None
    if names is None:
        raise UserError(
            f"data.sources: {source.name}: latents are made of tars; `raexla shards pack` makes them of lists and "
            "loose pictures"
        )
    assert isinstance(reader, Tars)
    return reader


def read_rows(
    source: SourceRecipe,
    order_hash: str,
    transform: AnyTransformRecipe,
    keep_pixels: bool,
    shard: int,
    first: int,
    count: int,
) -> Chunk:
    """Rows `first` to `first + count` of a shard.

    Raises:
        UserError: the storage; the source isn't what it was; a name that can't be written.
    """
    reader = _opened(source, order_hash)
    change, at_least = build_transform(transform), decoded_at_least(transform)
    name, chunk = reader.shard_names[shard].removesuffix(".tar"), Chunk()
    rng = np.random.default_rng(0)  # no transform that draws gets here
    for row in range(first, first + count):
        uid = reader.key(shard, row)
        key = uid.removeprefix(f"{name}/")
        if not reads_back(key, LATENT):
            raise UserError(f"{source.path}: {uid} would not read back under this key: reshard the source first")
        members: dict[str, bytes] = {}
        pixels = None
        try:
            members = reader.read(shard, row)
            if LATENT in members or REFUSED in members:
                raise UserError(f"{source.path}: {uid} has a latent already")
            data = _picture(members)
            if not keep_pixels:
                members = {name: part for name, part in members.items() if not _is_picture(name)}
            if data is not None:
                pixels = change(decode_image(data, max_pixels=source.max_pixels, at_least=at_least), rng)
            elif not members:
                raise Refused("missing_image", "nothing but members that are no picture of it")
        except Refused as refused:
            members = {**members, REFUSED: pack_refusal(refused)}
            chunk.refused.append(LeftOut(uid, refused.reason, refused.detail))
        chunk.keys.append(key)
        chunk.members.append(members)
        chunk.pixels.append(pixels)
    return chunk


def _picture(members: dict[str, bytes]) -> bytes | None:
    """The picture that training would take; None where there is none. Raises `Refused("several_images")`."""
    found = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
    pictures = [extension for extension in members if _is_picture(extension)]
    if found is None and len(pictures) > 1:
        raise Refused("several_images", f"{', '.join(sorted(pictures)[:4])}; one is supported")
    return found


def _is_picture(extension: str) -> bool:
    return extension.rpartition(".")[2] in IMAGE_EXTENSIONS


@lru_cache(maxsize=1)
def _opened(source: SourceRecipe, order_hash: str) -> Tars:
    """A source that is what it was when the work began."""
    reader = open_tars(source)
    if reader.order_hash != order_hash:
        raise UserError(f"{source.path}: its shards are others than when this began; the same command starts over")
    return reader
