"""Lists whose rows name pictures: LLaVA, Cambrian, Hugging Face's imagefolder, the official loader's JSONL.

    {"image": "coco/000001.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, ...]}
    {"file_name": "000001.jpg", "text": "a red bus"}

Pictures stand below the list's folder, or below another root. A row's object is its sample's `json`, its first caption
(`text`, `caption`, `prompt`, `captions`) its `txt`.
"""

from collections.abc import Collection, Sequence

from raexla.data.layouts.lines import ENDING, STRIDE, load_lines, read_block
from raexla.data.layouts.reader import hash_of
from raexla.data.parse import find_image, find_text, inside, parse_json
from raexla.data.sample import Refused
from raexla.data.shards.index import Say
from raexla.data.shards.reader import MAX_SAMPLE_BYTES, BoundedCache
from raexla.data.shards.store import Retry, Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS
from raexla.files import FileMissing


class JsonLines:
    """The files `names` of the folder `root`, each a shard. `images`: the root of the pictures; `root` if not given."""

    def __init__(
        self,
        root: str,
        names: Sequence[str],
        *,
        images: str | None = None,
        retry: Retry | None = None,
        say: Say | None = None,
    ) -> None:
        self.store = Store(root, retry)
        self.names = list(names)
        self.images = self.store if images is None else Store(images, retry)
        self._lines = [load_lines(self.store, name, say=say) for name in names]
        self._blocks: BoundedCache[list[bytes]] = BoundedCache(1 << 26)  # bytes of rows that are held

    @property
    def shard_samples(self) -> list[int]:
        """Rows of each file."""
        return [lines.rows for lines in self._lines]

    @property
    def order_hash(self) -> str:
        """Of the files' names, rows and bytes."""
        parts = zip(self.names, self._lines, strict=True)
        return hash_of(["jsonl", *([name, lines.rows, lines.file_bytes] for name, lines in parts)])

    @property
    def manifest_hash(self) -> str | None:
        """Of the files' contents; pictures aren't in it."""
        return hash_of([[name, lines.sha256] for name, lines in zip(self.names, self._lines, strict=True)])

    @property
    def cached_sample_bytes(self) -> float:
        """Pictures aren't held."""
        return 0.0

    def key(self, shard: int, row: int) -> str:
        """`file/row`, from 0, blank lines not counted."""
        return f"{self.names[shard].removesuffix(ENDING)}/{row}"

    def read(self, shard: int, row: int, wanted: Collection[str] | None = None) -> dict[str, bytes]:
        """`json`, `txt` and the picture of one row. Raises `Refused`: `bad_json`, `bad_utf8`, `missing_image`,
        `several_images`, `outside_folder`, `unsupported_media`."""
        line = self._line(shard, row)
        plain = parse_json(line)
        members = {"json": line}
        text = find_text(plain)
        if text is not None:
            members["txt"] = text
        if wanted is None or any(extension in wanted for extension in IMAGE_EXTENSIONS):
            path = find_image(plain)
            if path is not None:
                extension = path.rpartition(".")[2].lower()
                members[extension if extension in IMAGE_EXTENSIONS else "jpg"] = self._picture(shard, path)
        return {name: data for name, data in members.items() if wanted is None or name in wanted}

    def _line(self, shard: int, row: int) -> bytes:
        block, place = divmod(row, STRIDE)

        def load() -> tuple[list[bytes], int]:
            rows = read_block(self.store, self.names[shard], self._lines[shard], block)
            return rows, sum(map(len, rows))

        return self._blocks.get((shard, block), load)[place]

    def _picture(self, shard: int, path: str) -> bytes:
        folder = self.names[shard].rpartition("/")[0] if self.images is self.store else ""
        root = (self.images.root or "/") if self.images.local else self.images.url
        name = inside(path, root, folder)
        try:
            size = self.images.size(name)
            if size > MAX_SAMPLE_BYTES:
                raise Refused("image_too_large", f"{name}: {size} bytes, limit {MAX_SAMPLE_BYTES}")
            return self.images.read(name, 0, size)  # with its size, so that a body that ends early is an error
        except FileMissing:
            raise Refused("missing_image", f"there is no {self.images.url}/{name}") from None
