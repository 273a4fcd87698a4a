"""The page: what `collect` found, made readable."""

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from raexla.eval.report.charts import Line, bar_chart, line_chart
from raexla.eval.report.collect import Collected, Picture, Run, collect
from raexla.eval.table import NAMES, cell, in_order, task_name, with_half

_SHEETS = 5
_SHEET_WIDTH = 960
#: Metrics that are rates or bookkeeping and go into the table of timings, not into curves.
_RATES = ("seconds", "images_per_second", "input_wait_seconds", "compile_seconds", "compilations", "mfu", "goodput")


def write_report(folder: Path, out: Path, title: str = "") -> Path:
    """Write the page about `folder` to `out`, whole or not at all; returns `out`.

    Raises:
        UserError: there is nothing to report in `folder`.
    """
    html = render(collect(folder), title or f"{folder.resolve().name}: from shards to pictures")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(out)
    return out


def render(found: Collected, title: str) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=PackageLoader("raexla.eval.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(uri=data_uri, cell=cell, task=task_name, pretty=_pretty)
    scores = _scores(found)
    return environment.get_template("page.html.j2").render(
        title=title,
        made=time.strftime("%d %B %Y, %H:%M UTC", time.gmtime()),
        headline=_headline(found),
        scores=scores,
        names=NAMES,
        samples=[_sample_folder(path, manifest) for path, manifest in found.samples],
        reconstructions=[_reconstruction(path, result) for path, result in found.reconstructions],
        runs=[_run(run) for run in found.runs],
        timing=[row for run in found.runs if (row := _timing(run))],
        data=found.data,
        commands=_commands(found),
    )


def data_uri(image: Path | np.ndarray, width: int | None = None) -> str:
    """A picture as a data URI; with `width`, shrunk to it and reduced to 128 colours."""
    if isinstance(image, Path) and width is None:
        data = image.read_bytes()
    else:
        picture = Image.open(image) if isinstance(image, Path) else Image.fromarray(image)
        if width is not None and picture.width > width:
            picture = picture.convert("RGB").resize((width, round(picture.height * width / picture.width)))
            picture = picture.quantize(128)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        data = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _pretty(value: Any) -> str:
    """A protocol's value on one line."""
    if isinstance(value, Mapping) and "type" in value:
        rest = _pretty({name: part for name, part in value.items() if name != "type"})
        return f"{value['type']} ({rest})" if rest else str(value["type"])
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_pretty(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef"):
        return value[:16] + "…"
    return str(value) if isinstance(value, str | int) else json.dumps(value)


def _scores(found: Collected) -> list[dict[str, Any]]:
    """What the page says about each scored model."""
    out = []
    for folder, scores in found.scores:
        lines = {line["name"]: line for line in scores["scores"]}
        tasks = in_order(scores["scores"][0]["tasks"])
        styles = {"guided": "a", "unguided": "b", "held_out": "c"}
        bars = [(NAMES[name], style, lines[name]["tasks"]) for name, style in styles.items() if name in lines]
        ceiling = lines["reconstructions"]["tasks"] if "reconstructions" in lines else None
        out.append(
            {
                "folder": folder.name,
                "model": scores["model"],
                "lines": scores["scores"],
                "tasks": tasks,
                "chart": bar_chart(tasks, bars, ceiling),
                "keys": [(style, label) for label, style, _ in bars],
                "examples": [
                    (label, _by_task(folder, lines[name]["examples"]))
                    for name, label in (("guided", "with guidance"), ("held_out", "of held-out pairs"))
                    if name in lines
                ],
                "pairs": _pairs(folder, lines),
                "reconstruction": lines.get("reconstructions", {}),
                "understanding": _understanding(folder, scores.get("understanding")),
                "stamps": _stamps(scores),
            }
        )
    return out


def _by_task(folder: Path, examples: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Picture]]]:
    found: dict[str, list[Picture]] = {}
    for example in examples:
        picture = Picture(folder / example["image"], example["caption"], example["right"])
        found.setdefault(example["task"], []).append(picture)
    return list(found.items())


def _pairs(folder: Path, lines: Mapping[str, Mapping[str, Any]], count: int = 12) -> list[tuple[Path, Path, str]]:
    """(original, reconstruction, caption), spread over the tasks."""
    if "real" not in lines or "reconstructions" not in lines:
        return []
    examples = list(zip(lines["real"]["examples"], lines["reconstructions"]["examples"], strict=True))
    chosen = [examples[i * len(examples) // count] for i in range(count)] if len(examples) > count else examples
    return [(folder / real["image"], folder / again["image"], real["caption"]) for real, again in chosen]


def _understanding(folder: Path, found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not found:
        return None
    kinds = in_order(found["tasks"])
    examples = [{**example, "image": folder / example["image"]} for example in found["examples"]]
    return {
        "tasks": found["tasks"],
        "chart": bar_chart(kinds, [("model", "a", found["tasks"])]),
        "examples": examples,
    }


def _stamps(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(what, protocol) of every score."""
    stamps: list[tuple[str, Mapping[str, Any]]] = []
    stamps += [("all scores", {**scores["model"], "created": scores["created"], "seconds": scores["seconds"]})]
    stamps += [(NAMES.get(line["name"], line["name"]), line["protocol"]) for line in scores["scores"]]
    if scores.get("understanding"):
        stamps.append((NAMES["understanding"], scores["understanding"]["protocol"]))
    return stamps


def _headline(found: Collected) -> list[tuple[str, str, str]]:
    """(figure, what it is, what to compare it with)."""
    out = []
    for _, scores in found.scores[:1]:
        lines = {line["name"]: line["tasks"]["overall"] for line in scores["scores"]}
        said = {"guided": "of pictures show what the prompt asks", "held_out": "on colour-shape pairs never seen"}
        for name, label in said.items():
            if name in lines:
                value = lines[name]
                out.append((f"{100 * value['score']:.0f}%", label, f"chance {100 * value['chance']:.0f}%"))
        if "reconstructions" in lines:
            db = next(line["psnr_db"] for line in scores["scores"] if line["name"] == "reconstructions")
            share = f"{100 * lines['reconstructions']['score']:.0f}%"
            out.append((share, "ceiling: real pictures through the codec", f"{db:.1f} dB"))
        if scores.get("understanding"):
            value = scores["understanding"]["tasks"]["overall"]
            share, chance = f"{100 * value['score']:.0f}%", f"chance {100 * value['chance']:.0f}%"
            out.append((share, "of questions answered right", chance))
    elapsed = sum(run.note.get("seconds", {}).get("elapsed", 0.0) for run in found.runs)
    if elapsed:
        stages = ", ".join(run.stage for run in found.runs)
        out.append((f"{elapsed / 60:.1f} min", f"of training: {stages}", ""))
    return out


def _sample_folder(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    shown = manifest["images"][:32]
    captions = [image["prompt"] if "prompt" in image else f"class {image['class']}" for image in shown]
    pictures = [Picture(path / image["file"], said) for image, said in zip(shown, captions, strict=True)]
    sampling = manifest["sampling"]
    about = f"sampler {_pretty(sampling['sampler'])}, guidance {_pretty(sampling['guidance'])}, seed {manifest['seed']}"
    return {"name": path.name, "pictures": pictures, "about": about, "more": len(manifest["images"]) - len(pictures)}


def _reconstruction(path: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """What `raexla reconstruct` found in one folder."""
    lines = [*result["sources"], *([result["overall"]] if len(result["sources"]) > 1 else [])]
    rows = [(line["name"], with_half(line["psnr"], 2), with_half(line["ssim"], 4), line["protocol"]) for line in lines]
    return {
        "name": path.name,
        "codec": result["codec"]["name"],
        "rows": rows,
        "sheet": data_uri(path / result["sheet"]["file"], _SHEET_WIDTH),
    }


def _run(run: Run) -> dict[str, Any]:
    """Curves and pictures of one run."""
    names = [name for name in run.metrics() if name not in _RATES]
    first = [name for name in names if not name.startswith("validation/") and not name.startswith(("lr", "learning"))]
    curves = []
    for name in first[:8]:
        lines = [Line("training", *run.series(name))]
        if f"validation/{name}" in names:
            lines.append(Line("validation", *run.series(f"validation/{name}"), style="c", dots=True))
        curves.append({"name": name, "chart": line_chart(lines, name), "validated": len(lines) > 1})
    for name in names:
        plain = name.removeprefix("validation/")
        if name != plain and plain not in first:
            line = Line("validation", *run.series(name), style="c", dots=True)
            curves.append({"name": name, "chart": line_chart([line], name), "validated": True})
    count = len(run.sheets)
    places = range(count) if count <= _SHEETS else [round(i * (count - 1) / (_SHEETS - 1)) for i in range(_SHEETS)]
    return {
        "name": run.name,
        "stage": run.stage,
        "curves": curves,
        "sheets": [(step, data_uri(path, _SHEET_WIDTH)) for step, path in (run.sheets[i] for i in places)],
        "steps": run.note.get("step", run.records[-1]["step"] if run.records else 0),
        "recipe_sha256": run.note.get("recipe_sha256", ""),
    }


def _timing(run: Run) -> dict[str, Any] | None:
    """One row of the table of timings."""
    if not run.records:
        return None
    seconds = run.note.get("seconds", {})
    peak, source = (run.note.get("peak_flops") or (None, ""))[:2]
    mesh = run.note.get("mesh", {})
    return {
        "stage": run.stage,
        "name": run.name,
        "steps": run.note.get("step", run.records[-1]["step"]),
        "devices": ", ".join(f"{axis} {n}" for axis, n in mesh.items() if n > 1) or "1",
        "step_seconds": run.typical("seconds"),
        "images_per_second": run.typical("images_per_second"),
        "input_wait": run.typical("input_wait_seconds"),
        "mfu": run.typical("mfu"),
        "goodput": run.note.get("goodput"),
        "compile": seconds.get("compile"),
        "elapsed": seconds.get("elapsed"),
        "peak": peak,
        "peak_source": source,
    }


def _commands(found: Collected) -> list[tuple[str, str]]:
    """(command, what it shows) to try next."""
    model = next((m["model"] for _, m in found.samples), None)
    model = model or next((s["model"]["model"] for _, s in found.scores), None) or "nano"
    model = str(model).removesuffix("/artifact")
    picture = next((path / m["images"][0]["file"] for path, m in found.samples if m["images"]), None)
    sample = f"raexla sample --model {model} --per-prompt 8"
    out = [
        (f'{sample} --prompt "a red circle left of a blue square"', "your own prompt"),
        (f'{sample} --prompt "three green rings" --guidance 4 --steps 10', "more guidance, fewer steps"),
    ]
    if picture is not None:
        asked = f'raexla understand --model {model} --image "{picture}" --question "What is in the top left?"'
        out.append((asked, "ask about a picture"))
    if any(run.stage == "pretrain" for run in found.runs):
        out.append(("raexla train recipes/nano/pretrain.yaml --out runs/mine --set model.dit.depth=2", "a smaller DiT"))
        out.append(("raexla recipe show recipes/nano/pretrain.yaml", "everything that can be set"))
    out.append(("make demo-long", "the same pipeline with a larger budget"))
    return out
