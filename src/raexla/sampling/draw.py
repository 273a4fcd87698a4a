"""What `raexla sample` does: pictures of prompts or classes into a folder, with a contact sheet and a record."""

import platform
import re
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from raexla.checkpoint.files import directory_when_complete, sha256, write_json
from raexla.flow.guidance import AutoGuidanceRecipe, CFGRecipe, NoGuidance
from raexla.flow.samplers import EulerRecipe, HeunRecipe, SDERecipe
from raexla.recipe import UserError
from raexla.runtime import Runtime
from raexla.sampling.base import ImageModel
from raexla.sampling.images import ImageSampler, SamplingRecipe
from raexla.sampling.model import find_model
from raexla.sampling.sheet import save_png, save_sheet
from raexla.sampling.weak import open_weak

MANIFEST = "manifest.json"
SHEET = "sheet.png"
SAMPLERS: dict[str, type[EulerRecipe] | type[HeunRecipe] | type[SDERecipe]] = {
    "euler": EulerRecipe,
    "heun": HeunRecipe,
    "sde": SDERecipe,
}


def versions() -> dict[str, str]:
    """Versions of what computes a picture."""
    found = {"python": platform.python_version()}
    for package in ("raexla", "torch", "torch_xla", "transformers", "numpy", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def sampling_recipe(
    sampler: str,
    steps: int,
    guidance: float,
    interval: tuple[float, float],
    batch_images: int,
    *,
    channels: int | None = None,
    weak: str | None = None,
    grid: Literal["shifted", "scale_rae", "rae"] = "shifted",
) -> SamplingRecipe:
    """The recipe that command-line options mean; a guidance scale of 1 is none, a weaker model makes it AutoGuidance.

    Raises:
        UserError: no such sampler or weaker model, or values out of range.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"--sampler: there is no {sampler!r}; choose one of {', '.join(SAMPLERS)}")
    if steps < 1 or batch_images < 1:
        raise UserError(f"--steps {steps}, --batch {batch_images}: must be at least 1")
    if guidance < 0 or interval[0] >= interval[1]:
        raise UserError(f"--guidance {guidance} in {interval}: the scale must be at least 0, the interval LOW < HIGH")
    chosen: NoGuidance | CFGRecipe | AutoGuidanceRecipe = NoGuidance()
    if weak is not None:
        if guidance == 1:
            raise UserError("--weak: the scale --guidance 1 is no guidance; give another, for instance 1.5")
        find_model(weak, "--weak")  # before the strong model's gigabytes are read
        chosen = AutoGuidanceRecipe(scale=guidance, interval=interval, channels=channels, weak=weak)
    elif guidance != 1:
        chosen = CFGRecipe(scale=guidance, interval=interval, channels=channels)
    if grid != "shifted" and sampler != "euler":
        raise UserError(
            f"--grid {grid} is one of the euler sampler's, --sampler is {sampler}: leave one of the two out"
        )
    if grid != "shifted" and steps < 3:
        raise UserError(f"--grid {grid} needs at least 3 steps, --steps is {steps}")
    drawn_by = EulerRecipe(steps=steps, grid=grid) if sampler == "euler" else SAMPLERS[sampler](steps=steps)
    return SamplingRecipe(sampler=drawn_by, guidance=chosen, batch_images=batch_images)


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines and lines that begin with `#` are left out.

    Raises:
        UserError: no such file, not text, or no prompt in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts: {path} can't be read: {error}") from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise UserError(f"--prompts: {path} has no prompt in it")
    return found


def read_classes(text: str) -> list[int]:
    """The numbers of `3,5,7` or `0-9,17`, in the order given.

    Raises:
        UserError: something else stands there.
    """
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", part)
        if ends is None or (ends[2] and int(ends[2]) < int(ends[1])):
            raise UserError(
                f"--classes: {part.strip()!r} is no class: give numbers and ranges, for instance 3,5,7 or 0-9"
            )
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return found


def slug(text: str, length: int = 48) -> str:
    """A short part of a file name: lower-case words joined by dashes."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return words[:length].rstrip("-") or "prompt"


def may_replace(out: Path, manifest: str = MANIFEST) -> None:
    """Refuse an output folder that holds something else than a former result.

    Raises:
        UserError: `out` is a file, or a folder with other things in it.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file; a folder is wanted")
    if out.is_dir() and any(out.iterdir()) and not (out / manifest).is_file():
        raise UserError(f"--out: {out} is not empty and holds no {manifest} of a former call; choose another folder")


def describe_model(model: ImageModel, runtime: Runtime, dtype: str) -> dict[str, Any]:
    """Which model, on what: the part that every protocol shares."""
    return {
        "model": str(model.source),
        "model_digest": model.digest,
        "decoder_digest": model.opened.decoder,
        "time_shift": model.shift,
        "resolution": model.codec.output_size,
        "runtime": runtime.type,
        "devices": runtime.device_count,
        "dtype": dtype,
        "versions": versions(),
    }


def draw(
    model: ImageModel,
    runtime: Runtime,
    recipe: SamplingRecipe,
    requests: Sequence[Any],
    out: Path,
    *,
    seed: int = 0,
    each: int = 1,
    dtype: str = "float32",
    tick: Callable[[int], Any] = lambda count: None,
) -> Path:
    """Draw `each` pictures of each request (prompt or class) with a placed model; returns the contact sheet's path.

    `out` gets numbered PNGs, `sheet.png` and `manifest.json`, all of it or nothing; a former result there is replaced.
    Picture k of request i takes the noise of row i x each + k, whatever the batch size.

    Raises:
        UserError: a request that the model can't take, before anything is drawn; `out` holds something else.
    """
    may_replace(out)
    repeated = [request for request in requests for _ in range(each)]
    weak = open_weak(recipe, model, runtime)
    sampler = ImageSampler(model, runtime, recipe, weak=weak)
    sampler.inputs(requests)  # all of them before the first is drawn
    images = sampler.images(repeated, seed, tick)
    digits = max(4, len(str(len(repeated) - 1)))
    entries: list[dict[str, Any]] = []
    with directory_when_complete(out) as folder:
        captions = [model.caption(request) for request in repeated]
        for row, (request, caption, image) in enumerate(zip(repeated, captions, images, strict=True)):
            name = f"{row:0{digits}d}-{slug(caption)}.png"
            save_png(folder / name, image)
            entries.append({"file": name, model.asked_for_by: request, "row": row, "sha256": sha256(folder / name)})
        columns = each if 3 <= each <= 8 else 8
        subtitle = f"{summary(recipe)}, seed {seed}, model {model.digest[:12]}"
        plural = {"prompt": "prompts", "class": "classes"}[model.asked_for_by]
        several = f"{len(images)} pictures of {len(requests)} {plural}"
        title = several if len(requests) > 1 else shorten(captions[0], 60)
        title = title if len(images) >= 4 else ""  # a narrow sheet has no room for one
        save_sheet(folder / SHEET, images, captions, columns=columns, title=title, subtitle=subtitle)
        write_json(
            folder / MANIFEST,
            {
                "format": 1,
                "seed": seed,
                f"per_{model.asked_for_by}": each,
                "sampling": recipe.model_dump(mode="json"),
                "batch_images": sampler.batch,
                **describe_model(model, runtime, dtype),
                "weak_digest": weak.digest if weak else None,
                "sheet": {"file": SHEET, "sha256": sha256(folder / SHEET)},
                "images": entries,
            },
        )
    return out / SHEET


def summary(recipe: SamplingRecipe) -> str:
    """Sampler and guidance in a few words."""
    guidance = recipe.guidance
    if isinstance(guidance, NoGuidance):
        said = "no guidance"
    else:
        low, high = guidance.interval
        within = "" if (low, high) == (0, 1) else f" for t in [{low:g}, {high:g}]"
        first = f", first {guidance.channels} channels" if guidance.channels else ""
        said = f"{guidance.type} {guidance.scale:g}{first}{within}"
    sampler = recipe.sampler
    grid = f" on the {sampler.grid} grid" if isinstance(sampler, EulerRecipe) and sampler.grid != "shifted" else ""
    return f"{sampler.type}, {sampler.steps} steps{grid}, {said}"
