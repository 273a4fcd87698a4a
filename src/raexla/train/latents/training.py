"""What a Task asks about sources that hold latents: which groups have them, what a batch holds, whether they fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raexla.data import SourceRecipe
from raexla.data.latents import LatentType, read_record, type_in_batch
from raexla.data.layouts.find import find
from raexla.data.loader import GROUPS
from raexla.data.shards import Store
from raexla.data.transforms import AnyTransformRecipe
from raexla.recipe import UserError
from raexla.sampling.codec import OpenCodec
from raexla.train.latents.identity import made_by, refuse_draws, unlike


@dataclass(frozen=True)
class LatentRows:
    """The latents of one group of a batch."""

    tokens: int
    channels: int
    stored: LatentType

    @property
    def dtype(self) -> type[np.floating]:
        """Of the batch's array [n, N, C]."""
        return type_in_batch(self.stored)

    @property
    def blank(self) -> np.ndarray:
        """[N, C] for a row without a picture."""
        return np.zeros((self.tokens, self.channels), self.dtype)


def latent_groups(sources: Sequence[SourceRecipe], grid: tuple[int, int], channels: int) -> dict[str, LatentRows]:
    """The groups whose batches hold `latent` [n, N, C] instead of `pixels`.

    Raises:
        UserError: a group whose sources don't all hold latents of one type: a batch has arrays of one kind.
    """
    found: dict[str, LatentRows] = {}
    by_group: dict[str, list[SourceRecipe]] = {}
    for source in sources:
        if source.kind != "text":  # has no pictures, whatever the others have
            by_group.setdefault(GROUPS[source.kind] if source.group is None else source.group, []).append(source)
    for group, members in by_group.items():
        types = {source.latents for source in members}
        if len(types) > 1:
            said = ", ".join(f"{source.name}: {source.latents or 'pictures'}" for source in members)
            raise UserError(
                f"data.sources: those of the group {group!r} must hold latents of one type, or pictures, all of them "
                f"({said}); `raexla latents` makes the others"
            )
        if (stored := types.pop()) is not None:
            found[group] = LatentRows(grid[0] * grid[1], channels, stored)
    return found


def check_latents(
    sources: Sequence[SourceRecipe], opened: OpenCodec, transform: AnyTransformRecipe, where: str = "data.sources"
) -> None:
    """Hold the records beside the sources' shards against what training would make of the pictures.

    Raises:
        UserError: latents of another codec, transform or type, each difference named; a folder without a record; one
            that holds latents where pictures are expected.
    """
    for source in sources:
        if source.kind == "text":
            continue
        paths = [source.path] if isinstance(source.path, str) else list(source.path)
        if source.latents is None:
            _refuse_unsaid(source, paths, where)
            continue
        refuse_draws(transform)
        wanted = made_by(opened, transform) | {"dtype": source.latents}
        for root in dict.fromkeys(part.root for part in find(paths, source.layout, None)):
            record = read_record(Store(root))
            if record is None:
                raise UserError(
                    f"{where}: {source.name} is said to hold latents, but {root} has no latents.json: "
                    "`raexla latents` makes them, or leave `latents` out"
                )
            if lines := unlike(record, wanted):
                raise UserError(
                    f"{where}: {source.name}: the latents of {root} were made otherwise: {'; '.join(lines)}. Make them "
                    "anew with `raexla latents`, or train with what they were made with"
                )


def _refuse_unsaid(source: SourceRecipe, paths: Sequence[str], where: str) -> None:
    """Refuse latents that are taken for pictures. Folders are looked into; a pattern would be listed twice for it."""
    for path in paths:
        if path.endswith((".json", ".jsonl", ".txt", ".tar")) or any(mark in path for mark in "*?[{"):
            continue
        record = read_record(Store(path))
        if record is not None and not record.get("keep_pixels"):
            stored = record.get("dtype")
            raise UserError(
                f"{where}: {source.name}: {path} holds latents, no pictures; write `latents: {stored}` there"
            )


def blanks(groups: Mapping[str, LatentRows]) -> dict[str, np.ndarray]:
    """Group -> what stands in a row without a picture."""
    return {name: rows.blank for name, rows in groups.items()}
