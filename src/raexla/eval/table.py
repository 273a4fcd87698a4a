"""Scores as a table for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from raexla.data.nano.scenes import TASKS
from raexla.eval.understanding import KINDS

NAMES = {
    "guided": "with guidance",
    "unguided": "without guidance",
    "held_out": "held-out pairs",
    "real": "ceiling: real renders",
    "reconstructions": "ceiling: reconstructions",
    "chance": "chance (captions shuffled)",
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


def score_table(scores: Mapping[str, Any]) -> Table:
    """Lines of `scores.json` by task, in per cent, chance below the first."""
    lines = scores["scores"]
    tasks = in_order(lines[0]["tasks"])
    table = Table(title="nano benchmark, % right with the half-width of the 95% interval")
    table.add_column("")
    for task in tasks:
        table.add_column(task_name(task), justify="right", style="bold" if task == "overall" else "")
    for number, line in enumerate(lines):
        table.add_row(NAMES.get(line["name"], line["name"]), *[cell(line["tasks"].get(task)) for task in tasks])
        if number == 0:
            chance = [f"{100 * line['tasks'][task]['chance']:.0f}" for task in tasks]
            table.add_row(NAMES["chance"], *chance, style="dim")
    return table


def understanding_table(scores: Mapping[str, Any]) -> Table | None:
    """Accuracy by kind of question; None if it was not measured."""
    if not scores["understanding"]:
        return None
    found = scores["understanding"]["tasks"]
    tasks = {kind: found[kind] for kind in in_order(found)}
    table = Table(title="understanding, % right with the half-width of the 95% interval")
    table.add_column("")
    for kind in tasks:
        table.add_column(kind, justify="right", style="bold" if kind == "overall" else "")
    table.add_row("model", *[cell(value) for value in tasks.values()])
    table.add_row("chance (answers shuffled)", *[f"{100 * v['chance']:.0f}" for v in tasks.values()], style="dim")
    return table
