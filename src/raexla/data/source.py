"""A source: files of one layout or another, read as one kind of sample."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from raexla.data.decode import MAX_PIXELS, decode_image
from raexla.data.draws import generator
from raexla.data.latents import LATENT, REFUSED, LatentType, unpack_latent, unpack_refusal
from raexla.data.layouts import Layout, Reader, open_reader
from raexla.data.parse import (
    IMAGE_MARK,
    draws_image,
    find_captions,
    find_conversation,
    find_field,
    find_label,
    parse_json,
)
from raexla.data.sample import Kind, Refused, Sample, Turn
from raexla.data.shards.index import Say
from raexla.data.shards.reader import BoundedCache
from raexla.data.shards.store import Retry
from raexla.data.shards.tar import IMAGE_EXTENSIONS
from raexla.recipe import Recipe


class SourceRecipe(Recipe):
    """One set of files and its part in the mixture."""

    name: str = Field(min_length=1, pattern=r"^[^/\s]+$")
    """What metrics, quarantine and uids call it."""
    path: str | tuple[str, ...]
    """Where it lies, locally or on any fsspec URL: a folder (`gs://bucket/folder`), a brace pattern
    (`gs://bucket/x-{000..099}.tar`), a glob, one `.tar` or `.jsonl`, an `index.json`, a `wds_manifest.json`, a `.txt`
    that lists such paths, or several of those."""
    layout: Layout | None = None
    """How the files are read; found out from the path if not given. `webdataset`: tars of `x.jpg` + `x.txt`, `x.json`.
    `scale_rae`: the official tars, whose JSON names the picture. `jsonl`: lists whose rows name pictures. `folder`:
    loose pictures with a `.txt` of the same name."""
    images: str | None = None
    """Folder or URL that the paths in a JSONL's rows start from; the folder of the JSONL if not given."""
    only: tuple[str, ...] = ()
    """Globs on the files' whole paths, of which one must match, e.g. `*cambrian*`; all files if empty."""
    missing: Literal["stop", "skip"] = "stop"
    """What happens when a file that a pattern, list or index names isn't there. `skip` says so and goes on: the order
    is then another one, to which an older cursor doesn't fit."""
    kind: Kind = "caption"
    weight: float = Field(default=1.0, gt=0)
    """Its part of the samples, in the proportion of all sources' weights."""
    captions: tuple[str, ...] = Field(default=("txt", "json.captions"), min_length=1)
    """Fields that hold captions (or the text, for kind `text`): a member's extension, or `json.` and a path. Of several
    different captions one is chosen per epoch, by (seed, uid, epoch). A sample that has none of them but a conversation
    whose answer holds the picture is that conversation, word by word."""
    conversation: str = "json.conversations"
    """Field that holds the turns, for kind `conversation`; `json` if the object itself has `question` and `answer`."""
    label: str | None = None
    """Field that holds the class number, for kind `image`, e.g. `cls`."""
    group: str | None = Field(default=None, pattern=r"^[a-z_]*$")
    """The batch's group; by kind if not given (caption: generation, conversation and text: understanding)."""
    max_pixels: int = Field(default=MAX_PIXELS, gt=0)
    """Pictures with more pixels are refused undecoded."""
    latents: LatentType | None = None
    """The source holds latents of this type in place of pictures, as `raexla latents` writes them."""

    @field_validator("path")
    @classmethod
    def _names_something(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("must name a folder or a file")
        return value


class Source:
    """Reads a source's samples by (shard, row). Safe between threads; may be pickled."""

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
        self.reader: Reader = open_reader(
            recipe.path,
            layout=recipe.layout,
            images=recipe.images,
            only=recipe.only,
            missing=recipe.missing,
            piece=piece,
            cache=cache,
            retry=retry,
            say=say,
        )
        fields = [*recipe.captions] if recipe.kind in ("caption", "text") else []
        fields += [recipe.conversation] if recipe.kind == "conversation" else []
        fields += [recipe.label] if recipe.kind == "image" and recipe.label else []
        self._reads_json = any(path.split(".")[0] == "json" for path in fields)
        members = {"json" if path.split(".")[0] == "json" else path for path in fields}
        pictures = IMAGE_EXTENSIONS if recipe.latents is None else (LATENT, REFUSED)
        self._wanted = members | (set() if recipe.kind == "text" else set(pictures))

    @property
    def shard_samples(self) -> list[int]:
        """Samples per shard."""
        return self.reader.shard_samples

    @property
    def samples(self) -> int:
        """Samples of one epoch."""
        return sum(self.reader.shard_samples)

    @property
    def order_hash(self) -> str:
        """Stands for all that the order is a function of on the source's side."""
        return self.reader.order_hash

    @property
    def manifest_hash(self) -> str | None:
        """Stands for the contents; None where they weren't read."""
        return self.reader.manifest_hash

    @property
    def cached_sample_bytes(self) -> float:
        """Mean bytes of a sample that the cache of remote pieces holds; 0 where nothing is cached."""
        return self.reader.cached_sample_bytes

    def uid(self, shard: int, row: int) -> str:
        """`source/shard/key`."""
        return f"{self.recipe.name}/{self.reader.key(shard, row)}"

    def load(self, shard: int, row: int, *, seed: int, epoch: int, at_least: int | None = None) -> Sample:
        """Read and decode one sample; `at_least` as in `decode_image`. Raises `Refused` for its content, `UserError`
        for the storage."""
        recipe = self.recipe
        uid = self.uid(shard, row)
        members = self.reader.read(shard, row, self._wanted)
        meta = parse_json(members["json"]) if self._reads_json and "json" in members else {}
        if set(members) == {REFUSED}:  # nothing else of it could be read
            raise unpack_refusal(members[REFUSED])
        pictures = IMAGE_EXTENSIONS if recipe.latents is None else (REFUSED, LATENT)
        data = next((members[extension] for extension in pictures if extension in members), None)
        caption: str | None = None
        conversation: tuple[Turn, ...] = ()
        label: int | None = None
        if recipe.kind in ("caption", "image") and data is None:
            raise self._without_picture(members, meta)
        if recipe.kind == "caption" and self._is_conversation(members, meta):
            conversation = self._turns(members, meta, data is not None, drawn=True)
            caption = next(turn.text for turn in conversation if turn.role == "user")
        elif recipe.kind in ("caption", "text"):
            choices = find_captions(members, meta, recipe.captions)
            draw = int(generator(seed, "caption", uid, epoch).integers(len(choices))) if len(choices) > 1 else 0
            caption = choices[draw]
        elif recipe.kind == "conversation":
            conversation = self._turns(members, meta, data is not None, drawn=False)
        elif recipe.label is not None:
            label = find_label(find_field(members, meta, recipe.label))
        image = latent = None
        if recipe.latents is not None:
            if REFUSED in members:
                raise unpack_refusal(members[REFUSED])
            latent = None if data is None else unpack_latent(data)
        elif data is not None:
            image = decode_image(data, max_pixels=recipe.max_pixels, at_least=at_least)
        return Sample(uid, recipe.name, recipe.kind, image, caption, conversation, label, meta, latent)

    def _is_conversation(self, members: Mapping[str, bytes], meta: Mapping[str, Any]) -> bool:
        """Whether a captioned sample is given as a conversation: none of the caption's fields is there."""
        if find_field(members, meta, self.recipe.conversation) is None:
            return False
        return all(find_field(members, meta, path) is None for path in self.recipe.captions)

    def _turns(
        self, members: Mapping[str, bytes], meta: Mapping[str, Any], has_image: bool, *, drawn: bool
    ) -> tuple[Turn, ...]:
        """The turns, if the picture is `drawn` in them or looked at, as the kind has it."""
        turns = find_conversation(find_field(members, meta, self.recipe.conversation), has_image)
        if draws_image(turns) != drawn:
            where, kind = ("a question", "conversation") if drawn else ("an answer", "caption")
            raise Refused("other_kind", f"{IMAGE_MARK} stands in {where}: a sample for a source of kind {kind}")
        return turns

    def _without_picture(self, members: Mapping[str, bytes], meta: Mapping[str, Any]) -> Refused:
        if self.recipe.kind == "caption" and self._is_conversation(members, meta):
            turns = find_field(members, meta, self.recipe.conversation)
            if IMAGE_MARK not in str(turns):
                return Refused("other_kind", "a conversation without a picture: for a source of kind conversation")
        return Refused("missing_image", f"there is only {', '.join(sorted(members)) or 'nothing that is wanted'}")
