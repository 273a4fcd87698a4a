"""Loose pictures, each with a `.txt` and perhaps a `.json` of the same name (img2dataset's `files` output as well)."""

from collections.abc import Collection, Sequence

from raexla.data.layouts.reader import hash_of
from raexla.data.sample import Refused
from raexla.data.shards.reader import MAX_SAMPLE_BYTES
from raexla.data.shards.store import Retry, Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS

SIDES = ("txt", "json")


class PictureFolder:
    """The pictures and captions below a folder; each folder in it is a shard. Names up to their last dot make a sample,
    extensions count in lower case. A `.json` alone is none."""

    def __init__(self, root: str, *, names: Sequence[str] | None = None, retry: Retry | None = None) -> None:
        self.store = Store(root, retry)
        folders: dict[str, dict[str, list[str]]] = {}
        for name in self.store.names() if names is None else names:
            stem, _, extension = name.rpartition(".")
            folder, _, base = stem.rpartition("/")
            if base and not base.startswith(".") and extension.lower() in (*IMAGE_EXTENSIONS, *SIDES):
                folders.setdefault(folder, {}).setdefault(stem, []).append(extension)
        self._samples: list[list[tuple[str, tuple[str, ...]]]] = []
        for _, stems in sorted(folders.items()):
            samples = [(stem, tuple(found)) for stem, found in sorted(stems.items()) if _is_sample(found)]
            if samples:
                self._samples.append(samples)

    @property
    def shard_samples(self) -> list[int]:
        """Samples of each folder."""
        return [len(samples) for samples in self._samples]

    @property
    def order_hash(self) -> str:
        """Of the names."""
        return hash_of(["folder", *self._samples])

    @property
    def manifest_hash(self) -> str | None:
        """None: contents aren't read."""
        return None

    @property
    def cached_sample_bytes(self) -> float:
        """Nothing is held."""
        return 0.0

    def key(self, shard: int, row: int) -> str:
        """The path without its extension."""
        return self._samples[shard][row][0]

    def read(self, shard: int, row: int, wanted: Collection[str] | None = None) -> dict[str, bytes]:
        """The files of one name. Raises `Refused("duplicate_key")` if two of them are pictures."""
        stem, found = self._samples[shard][row]
        names = {extension.lower(): f"{stem}.{extension}" for extension in found}
        pictures = [extension for extension in found if extension.lower() in IMAGE_EXTENSIONS]
        if len(pictures) > 1 or len(names) < len(found):
            named = ", ".join(f"{stem}.{extension}" for extension in pictures or found)
            raise Refused("duplicate_key", f"{len(pictures or found)} files of one name: {named}")
        return {
            extension: self._file(name) for extension, name in names.items() if wanted is None or extension in wanted
        }

    def _file(self, name: str) -> bytes:
        size = self.store.size(name)
        if size > MAX_SAMPLE_BYTES:
            raise Refused("image_too_large", f"{name}: {size} bytes, limit {MAX_SAMPLE_BYTES}")
        return self.store.read(name, 0, size)  # with its size, so that a body that ends early is an error


def _is_sample(extensions: Sequence[str]) -> bool:
    return any(extension.lower() in ("txt", *IMAGE_EXTENSIONS) for extension in extensions)
