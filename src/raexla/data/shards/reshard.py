"""Shards -> other shards: smaller pictures, other shard sizes, a part of the samples. Keys are kept; what isn't touched
is copied byte for byte; what is left out is counted and named; a record says which set it came from."""

import hashlib
import io
import json
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, Literal

import PIL
from PIL import Image
from pydantic import Field

from raexla.data.decode import decode_image, open_image
from raexla.data.latents import RECORD as LATENTS
from raexla.data.latents import read_record
from raexla.data.parse import find_captions, parse_json
from raexla.data.sample import Refused
from raexla.data.shards.index import Progress
from raexla.data.shards.made import HASH, LeftOut, Made, MadeReport, Making, record_text, workers, write_made
from raexla.data.shards.manifest import INDEX
from raexla.data.shards.pack import plain_key, refuse_nested
from raexla.data.shards.reader import ShardSet
from raexla.data.shards.store import Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS
from raexla.data.shards.where import Undecided, Where
from raexla.data.transforms import CentreCropRecipe, SquashRecipe, build_transform
from raexla.recipe import Recipe, UserError

RECORD = "reshard.json"
FORMAT = 1

_CHUNK = 64  # samples that a process reads at a time
_FEW = 500  # that are done sooner than a second process starts
_JPEG_QUALITY = 95  # of resized JPEGs, unless told otherwise
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png"}


class ReshardRecipe(Recipe):
    """What to do with a set of shards."""

    resize: int | None = Field(default=None, ge=1, le=16384)
    """Pixels, as `how` says; pictures that are so already are copied."""
    how: Literal["shorter", "squash", "crop"] = "shorter"
    """`shorter`: the shorter side becomes `resize`, and no picture is enlarged. `squash`: both sides. `crop`: the
    shorter side, then the square in the middle."""
    jpeg: int | None = Field(default=None, ge=1, le=100)
    """Write pictures as JPEG of this quality (full colour resolution)."""
    png: bool = False
    """Write pictures as PNG."""
    where: str | None = None
    """Keep samples of which this is true; `raexla.data.shards.where`."""
    keep: str | None = None
    """Keep the samples that this file (path or URL) names: a line each, `KEY`, `SHARD/KEY`, or an object with a `uid`,
    as in a run's `quarantine.jsonl`."""
    drop: str | None = None
    """Leave out those that this file names."""
    every: int = Field(default=1, ge=1)
    """Look at the first of every so many samples only."""
    limit: int | None = Field(default=None, ge=1)
    """Stop at so many samples."""
    samples_per_shard: int = Field(default=1000, ge=1)
    bytes_per_shard: int = Field(default=1 << 29, ge=1)


def reshard(
    folder: str,
    out: str,
    recipe: ReshardRecipe,
    *,
    processes: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MadeReport:
    """Write the samples of `folder` (path or URL of shards with an index) as shards into `out`.

    The same call gives the same bytes, whatever `processes`, and goes on after a stop. `progress` opens a bar.

    Raises `UserError`: no index, a condition or a list that can't be read, nothing left, `out` has other shards.
    """
    store = Store(folder)
    refuse_nested(folder, out)
    if not store.exists(INDEX):
        raise UserError(
            f"{store.url}: no {INDEX}, so its contents have no name; `raexla shards index {store.url}` first"
        )
    if recipe.jpeg is not None and recipe.png:
        raise UserError("--jpeg and --png: pictures become one or the other")
    if recipe.where is not None:
        Where(recipe.where)
    latents = read_record(store)
    _names.cache_clear()  # a list may be another than in the last call
    index = ShardSet(folder).index
    lists = {name: _list_digest(path) for name in ("keep", "drop") if (path := getattr(recipe, name)) is not None}
    touches = any(value is not None for value in (recipe.resize, recipe.jpeg)) or recipe.png
    record = {
        "format": FORMAT,
        "parent": {"folder": folder, "manifest_hash": index.manifest_hash, "samples": index.samples},
        "recipe": recipe.model_dump(),
        "lists": lists,
        "pillow": PIL.__version__ if touches else None,
    }
    count = -(-index.samples // recipe.every)

    def job(start: int, number: int) -> Callable[[], Made]:
        return partial(_reshard, folder, str(index.manifest_hash), recipe, start, number)

    making = Making(
        out, count, job, record, RECORD, recipe.samples_per_shard, recipe.bytes_per_shard, _CHUNK, recipe.limit
    )
    tick = progress("samples", count) if progress else lambda count: None
    with workers(processes, count, _FEW) as pool:
        report = write_made(making, pool=pool, overwrite=overwrite, tick=tick)
    if latents is not None:  # what they were made with holds for a part of them too
        plain = latents | {HASH: report.index.manifest_hash}
        making.store.write_bytes(LATENTS, record_text(plain))
    return report


def _reshard(folder: str, manifest_hash: str, recipe: ReshardRecipe, start: int, count: int) -> Made:
    shards, ends = _opened(folder, manifest_hash)
    made: Made = []
    for number in range(start * recipe.every, (start + count) * recipe.every, recipe.every):
        shard = bisect_right(ends, number)
        row = number - (ends[shard - 1] if shard else 0)
        name = shards.key(shard, row)
        key = shards.table(shard).keys[row]
        try:
            left = _unlisted(recipe, name, key)
            members = {} if left else shards.read(shard, row)
            if left is None and recipe.where is not None:
                left = _undesired(_where(recipe.where), members, key, name.removesuffix(f"/{key}"))
            if left is None:
                made.append((_safe(key), _with_picture(recipe, members)))
            else:
                made.append(LeftOut(name, *left))
        except Refused as refusal:
            made.append(LeftOut(name, refusal.reason, refusal.detail))
    return made


def _unlisted(recipe: ReshardRecipe, name: str, key: str) -> tuple[str, str] | None:
    """Why the lists leave a sample out."""
    if recipe.keep is not None and not {name, key} & _names(recipe.keep):
        return "not_in_list", recipe.keep
    if recipe.drop is not None and {name, key} & _names(recipe.drop):
        return "in_list", recipe.drop
    return None


def _undesired(where: Where, members: dict[str, bytes], key: str, shard: str) -> tuple[str, str] | None:
    """Why the condition leaves a sample out. Raises `Refused` where what it asks for can't be read."""
    values: dict[str, Any] = {"key": key, "shard": shard}
    meta = parse_json(members["json"]) if "json" in members else {}
    values["json"] = meta
    data = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
    if data is not None:
        values["image_bytes"] = len(data)
        if where.names & {"width", "height", "pixels", "aspect", "format"}:
            width, height, values["format"] = _upright_size(data)
            values |= {"width": width, "height": height, "pixels": width * height, "aspect": width / height}
    if "caption" in where.names and ("txt" in members or "captions" in meta):
        values["caption"] = find_captions(members, meta, ("txt", "json.captions"))[0]
    try:
        return None if where.holds(values) else ("where", "")
    except Undecided as error:
        there = f"its JSON has {', '.join(list(meta)[:8])}" if meta else "it has no JSON"
        return "where_undecided", f"{error} ({there})"


def _upright_size(data: bytes) -> tuple[int, int, str]:
    image = open_image(data)
    if image.info.get("exif") or image.format == "TIFF":  # may be turned
        height, width = decode_image(data).shape[:2]
        return width, height, image.format or ""
    return image.width, image.height, image.format or ""


def _with_picture(recipe: ReshardRecipe, members: dict[str, bytes]) -> dict[str, bytes]:
    """The members, the picture as it is wanted. Raises `Refused` for one that can't be decoded."""
    extension = next((extension for extension in IMAGE_EXTENSIONS if extension in members), None)
    if extension is None or (recipe.resize is None and recipe.jpeg is None and not recipe.png):
        return members
    data = members[extension]
    source = open_image(data).format or ""
    target = "JPEG" if recipe.jpeg is not None else "PNG" if recipe.png or source != "JPEG" else "JPEG"
    right_format = target == source or (recipe.jpeg is None and not recipe.png)
    pixels = decode_image(data)
    picture = _resized(recipe, pixels)
    if picture is None and right_format:
        return members
    buffer = io.BytesIO()
    picture = picture or Image.fromarray(pixels)
    if target == "JPEG":
        picture.save(buffer, "JPEG", quality=recipe.jpeg or _JPEG_QUALITY, subsampling=0)
    else:
        picture.save(buffer, "PNG", compress_level=3)
    rest = {name: value for name, value in members.items() if name != extension}
    return {**rest, _EXTENSIONS[target]: buffer.getvalue()}


def _resized(recipe: ReshardRecipe, pixels: Any) -> Image.Image | None:
    """The resized picture; None where it has the wanted size already."""
    height, width = pixels.shape[:2]
    size = recipe.resize
    if size is None:
        return None
    if recipe.how == "shorter":
        if min(height, width) <= size:
            return None
        scale = size / min(height, width)
        wanted = (max(size, round(width * scale)), max(size, round(height * scale)))
        return Image.fromarray(pixels).resize(wanted, Image.Resampling.BICUBIC)
    if (height, width) == (size, size):
        return None
    return Image.fromarray(_transform(recipe.how, size)(pixels, None))  # type: ignore[arg-type]  # draws nothing


@lru_cache(maxsize=4)
def _transform(how: str, size: int) -> Callable[[Any, Any], Any]:
    if how == "squash":
        return build_transform(SquashRecipe(size=size))
    return build_transform(CentreCropRecipe(type="centre_crop", size=size))


@lru_cache(maxsize=1)
def _opened(folder: str, manifest_hash: str) -> tuple[ShardSet, list[int]]:
    """A set that is what it was when the work began, and where each shard's samples end."""
    shards = ShardSet(folder)
    if shards.index.manifest_hash != manifest_hash:
        raise UserError(f"{folder}: its index is another than when this began; the same command starts over")
    return shards, list(accumulate(entry.samples for entry in shards.index.shards))


@lru_cache(maxsize=4)
def _where(text: str) -> Where:
    return Where(text)


def _safe(key: str) -> str:
    return plain_key(key) if key.startswith("/") or "\0" in key or ".." in key.split("/") else key


def _read_list(path: str) -> bytes:
    folder, _, name = path.rpartition("/")
    return Store(folder or ("/" if path.startswith("/") else ".")).read(name)


def _list_digest(path: str) -> dict[str, Any]:
    names = _names_of(_read_list(path), path)
    return {
        "names": len(names),
        "sha256": hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "replace")).hexdigest(),
    }


@lru_cache(maxsize=2)
def _names(path: str) -> frozenset[str]:
    return _names_of(_read_list(path), path)


def _names_of(data: bytes, path: str) -> frozenset[str]:
    """The names that a list holds. Raises `UserError` for a line that names nothing, and for an empty list."""
    found = set()
    for number, line in enumerate(data.decode("utf-8-sig", "surrogateescape").splitlines(), 1):
        text = line.strip()
        if not text:
            continue
        if text.startswith("{"):
            try:
                uid = json.loads(text)["uid"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise UserError(f"{path}:{number}: no object with a uid: {text[:80]}") from None
            text = str(uid).partition("/")[2]  # SOURCE/SHARD/KEY
        found.add(text)
    if not found:
        raise UserError(f"{path}: names no sample; a line each is wanted: KEY, SHARD/KEY, or an object with a uid")
    return frozenset(found)
