"""A source: a set of shards read as one kind of sample."""

from pydantic import Field

from raexla.data.decode import MAX_PIXELS, decode_image
from raexla.data.draws import generator
from raexla.data.parse import find_captions, find_conversation, find_field, find_label, parse_json
from raexla.data.sample import Kind, Refused, Sample, Turn
from raexla.data.shards.index import Say
from raexla.data.shards.reader import BoundedCache, ShardSet
from raexla.data.shards.store import Retry
from raexla.data.shards.tar import IMAGE_EXTENSIONS
from raexla.recipe import Recipe


class SourceRecipe(Recipe):
    """One set of shards and its part in the mixture."""

    name: str = Field(min_length=1, pattern=r"^[^/\s]+$")
    """What metrics, quarantine and uids call it."""
    path: str
    """Folder or fsspec URL (`gs://bucket/folder`) with `*.tar` and, if it has been indexed, `index.json`."""
    kind: Kind = "caption"
    weight: float = Field(default=1.0, gt=0)
    """Its part of the samples, in the proportion of all sources' weights."""
    captions: tuple[str, ...] = Field(default=("txt", "json.captions"), min_length=1)
    """Fields that hold captions (or the text, for kind `text`): a member's extension, or `json.` and a path. Of several
    different captions one is chosen per epoch, by (seed, uid, epoch)."""
    conversation: str = "json.conversations"
    """Field that holds the turns, for kind `conversation`; `json` if the object itself has `question` and `answer`."""
    label: str | None = None
    """Field that holds the class number, for kind `image`, e.g. `cls`."""
    group: str | None = Field(default=None, pattern=r"^[a-z_]*$")
    """The batch's group; by kind if not given (caption: generation, conversation and text: understanding)."""
    max_pixels: int = Field(default=MAX_PIXELS, gt=0)
    """Pictures with more pixels are refused undecoded."""


class Source:
    """Reads a source's samples by (shard, row); safe to use from several threads."""

    def __init__(
        self,
        recipe: SourceRecipe,
        *,
        piece: int = 64,
        cache: BoundedCache[bytes] | None = None,
        retry: Retry | None = None,
        say: Say | None = None,
    ) -> None:
        self.recipe = recipe
        self.shards = ShardSet(recipe.path, piece=piece, cache=cache, retry=retry, say=say)
        fields = [*recipe.captions] if recipe.kind in ("caption", "text") else []
        fields += [recipe.conversation] if recipe.kind == "conversation" else []
        fields += [recipe.label] if recipe.kind == "image" and recipe.label else []
        self._reads_json = any(path.split(".")[0] == "json" for path in fields)
        members = {"json" if path.split(".")[0] == "json" else path for path in fields}
        self._wanted = members | (set() if recipe.kind == "text" else set(IMAGE_EXTENSIONS))

    @property
    def shard_samples(self) -> list[int]:
        """Samples per shard, in the order of the index."""
        return [shard.samples for shard in self.shards.index.shards]

    def uid(self, shard: int, row: int) -> str:
        """`source/shard/key`."""
        return f"{self.recipe.name}/{self.shards.key(shard, row)}"

    def load(self, shard: int, row: int, *, seed: int, epoch: int) -> Sample:
        """Read and decode one sample. Raises `Refused` for its content, `UserError` for the storage."""
        recipe = self.recipe
        uid = self.uid(shard, row)
        members = self.shards.read(shard, row, self._wanted)
        meta = parse_json(members["json"]) if self._reads_json and "json" in members else {}
        data = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
        if data is None and recipe.kind in ("caption", "image"):
            raise Refused("missing_image", f"members: {', '.join(sorted(self.shards.table(shard).members(row)))}")
        caption: str | None = None
        conversation: tuple[Turn, ...] = ()
        label: int | None = None
        if recipe.kind in ("caption", "text"):
            choices = find_captions(members, meta, recipe.captions)
            draw = int(generator(seed, "caption", uid, epoch).integers(len(choices))) if len(choices) > 1 else 0
            caption = choices[draw]
        elif recipe.kind == "conversation":
            conversation = find_conversation(find_field(members, meta, recipe.conversation), data is not None)
        elif recipe.label is not None:
            label = find_label(find_field(members, meta, recipe.label))
        image = None if data is None else decode_image(data, max_pixels=recipe.max_pixels)
        return Sample(uid, recipe.name, recipe.kind, image, caption, conversation, label, meta)
