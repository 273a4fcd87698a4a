"""Scores as a table for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from raexla.data.nano.scenes import TASKS
from raexla.eval.understanding import KINDS

NAMES = {
    "guided": "with guidance",
    "unguided": "without guidance",
    "held_out": "held-out pairs",
    "real": "ceiling: real renders",
    "reconstructions": "ceiling: reconstructions",
    "understanding": "understanding",
}
"""How the lines of `scores.json` are called in front of people."""


def task_name(task: str) -> str:
    """`two_objects` -> `two objects`."""
    return task.replace("_", " ")


def in_order(names: Iterable[str]) -> list[str]:
    """Tasks in GenEval's order, kinds of questions in ours, `overall` last."""
    known = [*TASKS, *KINDS]
    return sorted(names, key=lambda name: (name == "overall", known.index(name) if name in known else len(known), name))


def cell(value: Mapping[str, float] | None) -> str:
    """Score and the half-width of its interval, in per cent."""
    if value is None:
        return ""
    return f"{100 * value['score']:.0f} ±{50 * (value['high'] - value['low']):.0f}"


_HEADS = {
    "guided": "guided",
    "unguided": "unguided",
    "held_out": "held out",
    "real": "real",
    "reconstructions": "codec",
}


def score_table(scores: Mapping[str, Any]) -> Table:
    """Tasks of `scores.json` by line, in per cent; chance beside the first line, ceilings on the right."""
    lines = scores["scores"]
    table = Table(
        title="nano benchmark: % right, half the 95% interval",
        caption="held out: colour-shape pairs never trained on; real, codec: ceilings (true renders, as they are and "
        "reconstructed)",
        box=SIMPLE_HEAD,
    )
    table.add_column("")
    for number, line in enumerate(lines):
        table.add_column(_HEADS.get(line["name"], line["name"]), justify="right")
        if number == 0:
            table.add_column("chance", justify="right", style="dim")
    for task in in_order(lines[0]["tasks"]):
        cells = [cell(line["tasks"].get(task)) for line in lines]
        chance = f"{100 * lines[0]['tasks'][task]['chance']:.0f}"
        table.add_row(task_name(task), cells[0], chance, *cells[1:], style="bold" if task == "overall" else "")
    return table


def reconstruction_table(result: Mapping[str, Any]) -> Table:
    """The sources of `reconstruct.json`: means with half their 95% intervals."""
    table = Table(title="reconstruction: mean over images, half the 95% interval", box=SIMPLE_HEAD)
    table.add_column("")
    further = [name for name in ("lpips", "rfid") if name in result["overall"]]
    heads = {"lpips": "LPIPS", "rfid": "rFID"}
    for head in ("PSNR dB", "SSIM", *(heads[name] for name in further), "images", "refused"):
        table.add_column(head, justify="right")
    lines = [*result["sources"], *([result["overall"]] if len(result["sources"]) > 1 else [])]
    for line in lines:
        protocol = line["protocol"]
        cells = [with_half(line["psnr"], 2), with_half(line["ssim"], 4)]
        if "lpips" in further:
            cells.append(with_half(line["lpips"], 4))
        if "rfid" in further:
            cells.append("-" if line["rfid"] is None else f"{line['rfid']:.3f}")
        cells.append(str(protocol["images"]))
        style = "bold" if line["name"] == "overall" and line is lines[-1] and len(lines) > 1 else ""
        table.add_row(line["name"], *cells, str(protocol["refused"]), style=style)
    return table


def with_half(value: Mapping[str, float | None], digits: int) -> str:
    """A mean of `reconstruct.json` with half its interval, and how many pictures came back without any difference."""
    if value["mean"] is None:
        return "equal" if value["equal"] else "-"
    half = "" if value["low"] is None else f" ±{value['mean'] - value['low']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{half}" + (f" ({value['equal']:.0f} equal)" if value["equal"] else "")


def understanding_table(scores: Mapping[str, Any]) -> Table | None:
    """Accuracy by kind of question; None if it was not measured."""
    if not scores["understanding"]:
        return None
    found = scores["understanding"]["tasks"]
    table = Table(title="understanding: % right, half the 95% interval", box=SIMPLE_HEAD)
    table.add_column("")
    table.add_column("answers", justify="right")
    table.add_column("chance", justify="right", style="dim")
    table.add_column("questions", justify="right")
    for kind in in_order(found):
        value = found[kind]
        style = "bold" if kind == "overall" else ""
        table.add_row(kind, cell(value), f"{100 * value['chance']:.0f}", str(value["count"]), style=style)
    return table
