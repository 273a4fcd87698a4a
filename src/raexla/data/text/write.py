"""Rendered text on disk: ordinary shards (`png` or `jpg`, `txt`, `json`), made by several processes, resumable."""

import hashlib
import io
import json
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import PIL
from PIL import features
from pydantic import Field

from raexla.data.draws import key, permutation
from raexla.data.shards.index import Index
from raexla.data.shards.made import Made, Making, state_of, workers, write_made
from raexla.data.text.blocks import longest
from raexla.data.text.fonts import FontFile, Fonts, FoundFonts
from raexla.data.text.render import render_text
from raexla.recipe import BadDataError, Recipe, UserError

RECORD = "text.json"
FORMAT = 1
_FEW = 100  # samples that are made sooner than a second process starts
MAX_BAD_FRACTION = 0.05


class TextRecipe(Recipe):
    """What rendered text is made from, fonts apart."""

    count: int = Field(default=10_000, ge=1)
    """Samples."""
    seed: int = Field(default=0, ge=0)
    """Another seed gives other samples: a held-out set, say."""
    size: int = Field(default=256, ge=32, le=4096)
    """Side of the pictures in pixels."""
    texts: str | None = None
    """A file with one text a line; phrases are made up if not given."""
    jpeg_quality: int | None = Field(default=None, ge=1, le=95)
    """JPEG instead of PNG."""
    samples_per_shard: int = Field(default=1000, ge=1)


def write_text(
    out: str,
    recipe: TextRecipe,
    found: FoundFonts,
    *,
    processes: int = 2,
    overwrite: bool = False,
    tick: Callable[[int], Any] = lambda count: None,
) -> list[str]:
    """Write the samples as shards into `out` (path or URL); returns lines that tell of it.

    The same recipe, fonts and versions give the same bytes, whatever `processes`. Called again after a stop it goes on
    at the first shard that isn't there; a complete folder is left as it is.

    Raises:
        UserError: the texts can't be read, or `out` holds something else.
        BadDataError: more than 5% of the lines can't be drawn; the first are named.
    """
    lines, refused = ((), []) if recipe.texts is None else read_lines(recipe.texts, found.fonts, recipe.size)
    one = making(out, recipe, found.fonts, lines)
    complete = state_of(one) == "complete"
    with workers(processes, recipe.count, 0 if complete else _FEW) as pool:
        index = write_made(one, pool=None if complete else pool, overwrite=overwrite, tick=tick).index
    return _report(out, one, index, complete, found, lines, refused)


def making(out: str, recipe: TextRecipe, fonts: tuple[FontFile, ...], lines: tuple[str, ...] = ()) -> Making:
    """The folder, with all that its bytes depend on."""
    record = {
        "format": FORMAT,
        "count": recipe.count,
        "seed": recipe.seed,
        "size": recipe.size,
        "jpeg_quality": recipe.jpeg_quality,
        "samples_per_shard": recipe.samples_per_shard,
        "texts_sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else None,
        "texts": len(lines) if lines else "built in",
        "pillow": f"{PIL.__version__}, FreeType {features.version('freetype2')}",
        "fonts": [{"name": font.name, "sha256": font.sha256} for font in fonts],
    }

    def job(start: int, count: int) -> Callable[[], Made]:
        return partial(_make, recipe, fonts, start, count)

    return Making(out, recipe.count, job, record, RECORD, recipe.samples_per_shard, chunk=100)


def line_of(lines: tuple[str, ...], seed: int, index: int) -> str:
    """The line of sample `index`: all lines in a random order, then all again in another."""
    epoch, place = divmod(index, len(lines))
    return lines[int(_order(len(lines), key(seed, "lines", epoch))[place])]


@lru_cache(maxsize=2)
def _order(count: int, seed: int) -> Any:
    return permutation(count, seed)


def read_lines(path: str, fonts: tuple[FontFile, ...], size: int) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """The lines of a file that can be drawn, in order, and (where, why) of those that can't; blank ones don't count.

    Raises:
        UserError: no such file, no UTF-8, or no line in it.
        BadDataError: more than 5% of the lines can't be drawn.
    """
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--texts: {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--texts: {path} isn't UTF-8: byte {error.start} can't be read") from None
    opened, most = _opened(fonts), longest(size)
    good: list[str] = []
    refused: list[tuple[str, str]] = []
    for number, raw in enumerate(content.split("\n"), 1):
        line = " ".join(raw.split())
        if not line:
            continue
        if len(line) > most:
            refused.append((f"{path}:{number}", f"{len(line)} characters, {most} fit into {size} pixels"))
        elif not any(face.covers(line) for face in opened.faces):
            refused.append(
                (
                    f"{path}:{number}",
                    f"no font has all of its characters; the best one lacks {opened.uncovered(line)!r}",
                )
            )
        else:
            good.append(line)
    total = len(good) + len(refused)
    if total == 0:
        raise UserError(f"--texts: {path} holds no text")
    if len(refused) > MAX_BAD_FRACTION * total:
        named = "\n  ".join(f"{where}: {why}" for where, why in refused[:5])
        raise BadDataError(
            f"{len(refused)} of {total} lines can't be drawn, more than the {MAX_BAD_FRACTION:.0%} put up with "
            f"(give --fonts with fonts that have these characters, or a larger --size):\n  {named}"
        )
    return tuple(good), refused


@lru_cache(maxsize=2)
def _opened(fonts: tuple[FontFile, ...]) -> Fonts:
    return Fonts(fonts)


@lru_cache(maxsize=2)
def _lines(path: str, fonts: tuple[FontFile, ...], size: int) -> tuple[str, ...]:
    return read_lines(path, fonts, size)[0]


def _make(recipe: TextRecipe, fonts: tuple[FontFile, ...], start: int, count: int) -> Made:
    opened = _opened(fonts)
    lines = None if recipe.texts is None else _lines(recipe.texts, fonts, recipe.size)
    made: Made = []
    for index in range(start, start + count):
        line = None if lines is None else line_of(lines, recipe.seed, index)
        sample = render_text(opened, recipe.size, recipe.seed, index, line)
        buffer = io.BytesIO()
        if recipe.jpeg_quality is None:
            sample.image.save(buffer, "PNG", compress_level=3)
        else:
            sample.image.save(buffer, "JPEG", quality=recipe.jpeg_quality, subsampling=0)
        members = {
            "png" if recipe.jpeg_quality is None else "jpg": buffer.getvalue(),
            "txt": sample.text.encode(),
            "json": json.dumps(sample.record, sort_keys=True, ensure_ascii=True).encode(),
        }
        made.append((f"{index:09d}", members))
    return made


def _report(
    out: str,
    one: Making,
    index: Index,
    complete: bool,
    found: FoundFonts,
    lines: tuple[str, ...],
    refused: list[tuple[str, str]],
) -> list[str]:
    families = len({font.family for font in found.fonts})
    texts = f"{len(lines)} lines" if lines else "built-in phrases"
    state = "complete already" if complete else f"{index.bytes} bytes, {index.manifest_hash}"
    said = [
        f"{out}: {index.samples} samples in {len(index.shards)} shards, {state}",
        f"{len(found.fonts)} fonts of {families} families, {texts}; {out}/{one.record_name} tells all",
    ]
    for what, named in (("fonts", list(found.left_out)), ("lines", refused)):
        if named:
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            said.append(f"{what} left out: " + "; ".join(f"{where}: {why}" for where, why in named[:3]) + more)
    return said
