"""Pictures to be measured: files, folders and shard sets, each read once, in order, upright and in RGB."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from raexla.data import Refused, SourceRecipe, decode_image
from raexla.data.shards.store import Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS
from raexla.data.source import Source
from raexla.recipe import UserError

FILES = "files"
"""What the source of single files is called."""
_AHEAD = 64


@dataclass(frozen=True)
class PictureSource:
    """Pictures of one origin, by number."""

    name: str
    path: str
    count: int
    name_of: Callable[[int], str]
    load: Callable[[int], np.ndarray]
    """uint8 [H, W, 3]. Raises `Refused` for its content, `UserError` for the storage; safe in several threads."""


def open_pictures(paths: Sequence[str], limit: int | None = None) -> list[PictureSource]:
    """One source for each folder and shard set, named by its last part, and one for all single files.

    Args:
        paths: files; folders (or fsspec URLs) of pictures; folders (or URLs) of `*.tar` shards.
        limit: of each source the first so many.

    Raises:
        UserError: nothing there, or no picture in it.
    """
    found: list[PictureSource] = []
    files: list[Path] = []
    for path in paths:
        if "://" not in path and Path(path).is_file() and not path.endswith(".tar"):
            files.append(Path(path))
            continue
        found.append(_of_folder(path, _free_name(path, [source.name for source in found])))
    if files:
        found.insert(0, _of_files(files))
    return [
        PictureSource(source.name, source.path, min(source.count, limit or source.count), source.name_of, source.load)
        for source in found
    ]


def _free_name(path: str, taken: Sequence[str]) -> str:
    """The last part of a path, with those before it or a number where another source has that name already."""
    parts = ["-".join(part.split()) for part in PurePosixPath(path).parts if part.strip("/.")] or ["pictures"]
    longer = ["-".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    numbered = [f"{parts[-1]}-{number}" for number in range(2, len(taken) + 3)]
    return next(name for name in [*longer, *numbered] if name not in {*taken, FILES})


def _of_files(files: Sequence[Path]) -> PictureSource:
    def load(number: int) -> np.ndarray:
        try:
            return decode_image(files[number].read_bytes())
        except OSError as error:
            raise UserError(f"{files[number]} can't be read: {error.strerror}") from error

    return PictureSource(FILES, str(files[0].parent), len(files), lambda number: str(files[number]), load)


def _of_folder(path: str, name: str) -> PictureSource:
    store = Store(path)
    if path.endswith(".tar"):
        raise UserError(f"{path}: give the folder that the shards stand in")
    if not store.exists():
        raise UserError(f"{path}: there is no such file or folder")
    names = store.names()
    if any(file.endswith(".tar") and "/" not in file for file in names):
        return _of_shards(path, name)
    pictures = [
        file
        for file in names
        if file.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and not file.rpartition("/")[2].startswith(".")
    ]
    if not pictures:
        raise UserError(
            f"{path}: no picture ({', '.join(sorted(IMAGE_EXTENSIONS))}) and no *.tar in {len(names)} files"
        )
    return PictureSource(
        name, path, len(pictures), pictures.__getitem__, lambda number: decode_image(store.read(pictures[number]))
    )


def _of_shards(path: str, name: str) -> PictureSource:
    source = Source(SourceRecipe(name=name, path=path, kind="image"))
    places = [(shard, row) for shard, count in enumerate(source.shard_samples) for row in range(count)]
    if not places:
        raise UserError(f"{path}: the shards hold no sample")

    def load(number: int) -> np.ndarray:
        image = source.load(*places[number], seed=0, epoch=0).image
        assert image is not None  # a sample of kind image without one is refused
        return image

    return PictureSource(name, path, len(places), lambda number: source.reader.key(*places[number]), load)


Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Picture:
    """One picture, decoded and brought to size, or why it could not be."""

    number: int
    name: str
    pixels: tuple[np.ndarray, ...] = ()
    """What each of the `changes` makes of it, uint8 [S, S, 3]."""
    refused: Refused | None = None


def read_pictures(source: PictureSource, changes: Sequence[Change], threads: int = 4) -> Iterator[Picture]:
    """The pictures of a source in order, decoded and changed by some threads ahead of the caller.

    Raises:
        UserError: the storage.
    """

    def read(number: int) -> Picture:
        name = source.name_of(number)
        try:
            decoded = source.load(number)
        except Refused as refused:
            return Picture(number, name, refused=refused)
        return Picture(number, name, tuple(change(decoded) for change in changes))

    coming: deque[Future[Picture]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for number in range(source.count):
                coming.append(pool.submit(read, number))
                if len(coming) > _AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
