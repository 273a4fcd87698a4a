"""What `raexla reconstruct` does: pictures through a codec into a folder, with a sheet to look at and numbers that
carry their protocol."""

import hashlib
import heapq
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from raexla.checkpoint.files import directory_when_complete, sha256, write_json
from raexla.data import CentreCropRecipe, Refused, SquashRecipe, build_transform
from raexla.eval.comparison import GAIN, Pair, save_comparison
from raexla.eval.features import Features
from raexla.eval.frechet import frechet_distance
from raexla.eval.moments import Covariance
from raexla.eval.pictures import Picture, PictureSource, read_pictures
from raexla.eval.reconstruct import MEASURES, QUANTISATION, Mean, Measure, Reconstructor, mean_of, measure
from raexla.recipe import BadDataError, Recipe, UserError
from raexla.runtime import Runtime
from raexla.sampling.codec import OpenCodec
from raexla.sampling.draw import may_replace, slug, versions

RESULT = "reconstruct.json"
SHEET = "sheet.png"
PICTURES = "reconstructions"
MAX_BAD_FRACTION = 0.05
_SMALLEST = 11  # SSIM's window

Ticks = Callable[[str, int], Callable[[int], Any]]
"""(what, how many) -> a function that is told how many more are done."""


class ReconstructRecipe(Recipe):
    """How reconstructions are made and measured."""

    transform: Literal["centre_crop", "squash"] = "centre_crop"
    """How pictures become squares: the shorter side resized and the middle taken, or both sides resized."""
    batch_images: Annotated[int, Field(ge=1)] = 64
    """Images at a time."""
    shown: Annotated[int, Field(ge=1)] = 12
    """Pictures in the sheet: a quarter of them those with the lowest PSNR, the others evenly spread."""
    pictures: bool = True
    """Write each reconstruction as a PNG."""


@dataclass
class _Tally:
    """What is known of a source's pictures so far."""

    source: PictureSource
    values: dict[str, list[float]]
    digest: Any = field(default_factory=hashlib.sha256)
    images: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    features: tuple[Covariance, Covariance] | None = None
    """Of the originals and of the reconstructions."""


def codec_facts(opened: OpenCodec) -> dict[str, Any]:
    """What says which codec it was, whatever its paths: two results with one `codec_digest` come from one codec."""
    codec = opened.codec
    known = {"type": opened.recipe.type, **opened.facts, "decoder_digest": opened.decoder}
    known |= {"image_size": codec.image_size, "output_size": codec.output_size}
    text = json.dumps(known, sort_keys=True)
    return {**known, "codec_digest": hashlib.sha256(text.encode()).hexdigest()}


class ReconstructionRun:
    """Reconstructs sources of pictures with an opened, placed codec.

    Args:
        name: what the user called the codec.
        measures: numbers per image; further ones (LPIPS) may be added to the usual ones.
        features: of which rFID is taken, per source; None: no rFID.
    """

    def __init__(
        self,
        opened: OpenCodec,
        name: str,
        runtime: Runtime,
        recipe: ReconstructRecipe,
        dtype: str = "float32",
        measures: Sequence[Measure] = MEASURES,
        features: Features | None = None,
    ) -> None:
        codec = opened.codec
        if codec.output_size < _SMALLEST:
            raise UserError(f"SSIM needs pictures of {_SMALLEST} pixels, this codec draws {codec.output_size}")
        self._opened, self._name, self._runtime, self._recipe = opened, name, runtime, recipe
        self._dtype, self._measures, self._features = dtype, measures, features
        self._reconstructor = Reconstructor(codec, runtime, recipe.batch_images)
        self._rng = np.random.default_rng(0)  # neither transform draws
        sizes = dict.fromkeys((codec.output_size, codec.image_size))  # one, unless the codec upsamples
        transforms = [_transform(recipe.transform, size) for size in sizes]
        self._transforms = [build_transform(item) for item in transforms]
        self._transform_facts = transforms[0].model_dump(mode="json")

    def run(self, sources: Sequence[PictureSource], out: Path, ticks: Ticks) -> dict[str, Any]:
        """Reconstruct and measure; `out` gets PNGs, `sheet.png` and `reconstruct.json`, all of it or nothing.

        Returns:
            What `reconstruct.json` holds.

        Raises:
            UserError: `out` holds something else than a former result; the storage.
            BadDataError: no picture at all can be used (nothing is written), or more than 5% can't (the others'
                numbers are written).
        """
        may_replace(out, RESULT)
        began = time.time()
        total = sum(source.count for source in sources)
        tick = ticks("reconstruct", total)
        shown = _Shown(self._recipe.shown, sources)
        tallies = []
        with directory_when_complete(out) as folder:
            for source in sources:
                tally = _Tally(source, {item.name: [] for item in self._measures})
                tallies.append(tally)
                for batch in _batches(self._good(tally, tick), self._reconstructor.batch):
                    self._take(batch, tally, folder, shown)
                    tick(len(batch))
            refused = [entry for tally in tallies for entry in tally.refused]
            if len(refused) == total:
                raise BadDataError(f"none of the {total} pictures can be used; the first: {_said(refused[0])}")
            result = self._result(tallies, refused, time.time() - began)
            save_comparison(folder / SHEET, shown.pairs(), *self._heading(result))
            result["sheet"] = {"file": SHEET, "sha256": sha256(folder / SHEET)}
            write_json(folder / RESULT, result)
        if len(refused) > MAX_BAD_FRACTION * total:
            named = "; ".join(_said(entry) for entry in refused[:5])
            raise BadDataError(
                f"{len(refused)} of {total} pictures can't be used, {len(refused) / total:.1%}, more than the "
                f"{MAX_BAD_FRACTION:.0%} that are put up with: {named}{'; ...' if len(refused) > 5 else ''}. The "
                f"numbers in {out / RESULT} are those of the other {total - len(refused)}"
            )
        return result

    def _good(self, tally: _Tally, tick: Callable[[int], Any]) -> Iterator[Picture]:
        """The pictures of a source that can be used; the others are counted and named."""
        changes = [lambda pixels, change=change: change(pixels, self._rng) for change in self._transforms]
        for picture in read_pictures(tally.source, changes):
            if picture.refused is None:
                yield picture
                continue
            tally.refused.append(_refusal(tally.source, picture.name, picture.refused))
            tick(1)

    def _take(self, batch: Sequence[Picture], tally: _Tally, folder: Path, shown: "_Shown") -> None:
        originals = np.stack([picture.pixels[0] for picture in batch])
        again = self._reconstructor(np.stack([picture.pixels[-1] for picture in batch]))
        found = measure(originals, again, self._measures)
        if self._features is not None:
            pair = [Covariance.of(self._features.of(pixels)) for pixels in (originals, again)]
            before = tally.features or (Covariance.empty(self._features.width), Covariance.empty(self._features.width))
            tally.features = (before[0].merge(pair[0]), before[1].merge(pair[1]))
        for row, picture in enumerate(batch):
            tally.digest.update(picture.name.encode() + b"\0" + picture.pixels[0].tobytes())
            values = {name: float(array[row]) for name, array in found.items()}
            for name, value in values.items():
                tally.values[name].append(value)
            entry: dict[str, Any] = {"source": tally.source.name, "name": picture.name}
            entry |= {name: value if np.isfinite(value) else None for name, value in values.items()}
            if self._recipe.pictures:
                entry["file"] = f"{PICTURES}/{tally.source.name}/{_file_name(picture, tally.source.count)}"
                file = folder / entry["file"]
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(again[row]).save(file)
            tally.images.append(entry)
            shown.offer(tally.source, picture, originals[row], again[row], values, self._note(values))

    def _note(self, values: dict[str, float]) -> str:
        return "   ".join(
            f"{item.name.upper()} {values[item.name]:.{item.digits}f} {item.unit}".rstrip() for item in self._measures
        )

    def _protocol(self, reference: str, images: int, refused: int) -> dict[str, Any]:
        """The stamp that two numbers must share to be compared."""
        facts = codec_facts(self._opened)
        features = {} if self._features is None else {"rfid": self._features.protocol()}
        return {
            "reference_sha256": reference,
            "images": images,
            "refused": refused,
            "transform": self._transform_facts,
            "image_size": facts["image_size"],
            "output_size": facts["output_size"],
            "quantisation": QUANTISATION,
            "measures": {item.name: item.definition for item in self._measures},
            "interval": "95%, Student's t over images",
            "codec_digest": facts["codec_digest"],
            "dtype": self._dtype,
            "runtime": self._runtime.type,
            "devices": self._runtime.device_count,
            "batch_images": self._reconstructor.batch,
            **features,
        }

    def _line(self, name: str, tallies: Sequence[_Tally]) -> dict[str, Any]:
        reference = tallies[0].digest.hexdigest()
        if len(tallies) > 1:
            reference = hashlib.sha256("".join(tally.digest.hexdigest() for tally in tallies).encode()).hexdigest()
        count, bad = sum(len(tally.images) for tally in tallies), sum(len(tally.refused) for tally in tallies)
        means = {
            item.name: asdict(mean_of([value for tally in tallies for value in tally.values[item.name]]))
            for item in self._measures
        }
        return {"name": name, **means, **self._rfid(tallies), "protocol": self._protocol(reference, count, bad)}

    def _rfid(self, tallies: Sequence[_Tally]) -> dict[str, float | None]:
        """The Fréchet distance of these sources' originals and reconstructions; None of fewer than two pictures."""
        if self._features is None:
            return {}
        pairs = [tally.features for tally in tallies if tally.features is not None]
        if sum(pair[0].count for pair in pairs) < 2:
            return {"rfid": None}
        first, second = (reduce(Covariance.merge, side) for side in zip(*pairs, strict=True))
        return {"rfid": frechet_distance(first, second)}

    def _result(self, tallies: Sequence[_Tally], refused: list[dict[str, str]], seconds: float) -> dict[str, Any]:
        lines = [{**self._line(tally.source.name, [tally]), "path": tally.source.path} for tally in tallies]
        overall = {key: value for key, value in lines[0].items() if key != "path"} | {"name": "overall"}
        return {
            "format": 1,
            "codec": {
                "name": self._name,
                **codec_facts(self._opened),
                "recipe": self._opened.recipe.model_dump(mode="json"),
            },
            "sources": lines,
            "overall": overall if len(tallies) == 1 else self._line("overall", tallies),
            "images": [entry for tally in tallies for entry in tally.images],
            "refused": refused,
            "versions": versions(),
            "seconds": round(seconds, 1),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def _heading(self, result: dict[str, Any]) -> tuple[str, str]:
        overall, codec = result["overall"], result["codec"]
        count = overall["protocol"]["images"]
        means = [f"{item.name.upper()} {_mean(Mean(**overall[item.name]), item)}" for item in self._measures]
        if overall.get("rfid") is not None:
            means.append(f"rFID {overall['rfid']:.3f}")
        title = f"{count} reconstructions:  {',  '.join(means)}" if count > 1 else "1 reconstruction"
        sizes = f"{codec['image_size']} px in, {codec['output_size']} px out"
        latent = f"{codec['grid'][0]} x {codec['grid'][1]} tokens x {codec['channels']} channels"
        return title, f"{self._name}: {codec['type']}, {latent}, {sizes}; differences {GAIN}-fold around grey"


def _transform(kind: str, size: int) -> CentreCropRecipe | SquashRecipe:
    return CentreCropRecipe(type="centre_crop", size=size) if kind == "centre_crop" else SquashRecipe(size=size)


def _mean(value: Mean, item: Measure) -> str:
    if value.mean is None:
        return "none"
    half = "" if value.low is None else f" ± {value.mean - value.low:.{item.digits}f}"
    return f"{value.mean:.{item.digits}f}{half} {item.unit}".rstrip()


def _refusal(source: PictureSource, name: str, refused: Refused) -> dict[str, str]:
    return {"source": source.name, "name": name, "reason": refused.reason, "detail": refused.detail}


def _said(entry: dict[str, str]) -> str:
    return f"{entry['name']}: {entry['reason']}" + (f" ({entry['detail']})" if entry["detail"] else "")


def _file_name(picture: Picture, count: int) -> str:
    digits = max(4, len(str(count - 1)))
    return f"{picture.number:0{digits}d}-{slug(PurePosixPath(picture.name).stem)}.png"


def _batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    rest = iter(pictures)
    while batch := list(islice(rest, size)):
        yield batch


class _Shown:
    """Chooses what the sheet shows while the pictures go by: some evenly spread, and those with the lowest PSNR."""

    def __init__(self, count: int, sources: Sequence[PictureSource]) -> None:
        total, self._offsets = 0, {}
        for source in sources:
            self._offsets[source.name] = total
            total += source.count
        self._keep = max(1, count // 4) if total > count else 0
        spread = count - self._keep
        self._wanted = {number * total // spread for number in range(spread)} if self._keep else set(range(total))
        self._spread: list[Pair] = []
        self._worst: list[tuple[float, int, Pair]] = []

    def offer(
        self,
        source: PictureSource,
        picture: Picture,
        original: np.ndarray,
        again: np.ndarray,
        values: dict[str, float],
        note: str,
    ) -> None:
        """One more picture has been reconstructed."""
        number = self._offsets[source.name] + picture.number
        pair = Pair(original, again, f"{source.name}: {picture.name}", note)
        if number in self._wanted:
            self._spread.append(pair)
        elif self._keep:
            keep = heapq.heappush if len(self._worst) < self._keep else heapq.heappushpop
            keep(self._worst, (-values["psnr"], number, pair))

    def pairs(self) -> list[Pair]:
        """What is shown: the spread ones in order, then the worst, the very worst last."""
        worst = [pair for _, _, pair in sorted(self._worst, key=lambda item: item[:2])]
        return [*self._spread, *(replace(pair, note=f"{pair.note}   (of the lowest)") for pair in worst)]
