"""Cells' results -> tables: mean and standard deviation over seeds, as JSON and as Markdown."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablation.variants import TABLES, Table
from raexla.checkpoint.files import read_json
from raexla.recipe import UserError

DIGITS = {"psnr": 2, "ssim": 4, "rfid": 4, "perceptual": 4, "right": 3}
HEADS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "rfid": "nano-rFID",
    "perceptual": "perceptual",
    "right": "scenes right",
}
_CRITIC = {
    "accuracy": "critic/accuracy",
    "real": "critic/real",
    "fake": "critic/fake",
    "real spread": "critic/real_std",
    "fake spread": "critic/fake_std",
    "GAN weight x lambda": "adversarial_weight",
}
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
Results = Sequence[Mapping[str, Any]]


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All cells that are done, by name.

    Raises:
        UserError: two of them were scored by different protocols.
    """
    results = [read_json(path) for path in sorted(folder.glob("*.json"))]
    protocols(results)
    return results


def protocols(results: Results) -> dict[str, Any]:
    """How each set was scored; the same in all results.

    Raises:
        UserError: it isn't.
    """
    found: dict[str, tuple[str, Any]] = {}
    for result in results:
        for name, values in result["scores"].items():
            first, protocol = found.setdefault(name, (result["cell"], values["protocol"]))
            if protocol != values["protocol"]:
                raise UserError(f"{first} and {result['cell']} were scored differently on {name}: remove one of them")
    return {name: protocol for name, (_, protocol) in found.items()}


def spread(values: Iterable[float]) -> dict[str, Any]:
    """`mean`, `sd` (sample standard deviation; None of one value) and `seeds`."""
    known = list(values)
    sd = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "sd": sd, "seeds": len(known)}


def of_variant(results: Results, variant: str) -> list[Mapping[str, Any]]:
    """The variant's results, by seed."""
    return sorted((r for r in results if r["variant"] == variant), key=lambda r: r["seed"])


def scores_of(results: Results, variant: str) -> dict[str, dict[str, Any]]:
    """What was decoded -> measure -> its `spread`."""
    mine = of_variant(results, variant)
    if not mine:
        return {}
    return {
        name: {key: spread(r["scores"][name][key] for r in mine) for key in DIGITS if key in values}
        for name, values in mine[0]["scores"].items()
    }


def course_of(results: Results, variant: str) -> list[dict[str, Any]]:
    """At each validation: `step`, `phase` (of the step before it), and spreads of PSNR, SSIM, rFID and of what the
    critic said there."""
    mine = of_variant(results, variant)
    rows = []
    for place, point in enumerate(mine[0]["curve"] if mine else []):
        row: dict[str, Any] = {"step": point["step"], "phase": "start"}
        row |= {key: spread(r["curve"][place][key] for r in mine) for key in ("psnr", "ssim", "rfid")}
        records = [found for r in mine for found in r["records"] if found["step"] == point["step"]]
        if records:
            row["phase"] = records[0]["phase"]
            row |= {name: spread(f[key] for f in records) for name, key in _CRITIC.items() if key in records[0]}
        rows.append(row)
    return rows


def shown(value: Mapping[str, Any] | None, digits: int) -> str:
    """`26.52 ± 0.03`; without a spread where there is one seed."""
    if value is None:
        return ""
    mean = f"{value['mean']:.{digits}f}"
    return mean if value["sd"] is None else f"{mean} ± {value['sd']:.{digits}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table_of(results: Results, table: Table, columns: Sequence[tuple[str, str]], heads: Sequence[str]) -> str:
    """One row a variant that has results; empty if none has. `columns` are (what was decoded, measure)."""
    rows = []
    for variant in table.rows:
        scores = scores_of(results, variant)
        if scores:
            seeds = len(of_variant(results, variant))
            cells = [shown(scores.get(name, {}).get(key), DIGITS[key]) for name, key in columns]
            rows.append([table.title_of(variant), str(seeds), *cells])
    return markdown(["", "seeds", *heads], rows) if rows else ""


def report(results: Results) -> str:
    """All tables that have rows, as Markdown."""
    parts: list[tuple[str, str]] = []
    for name in ("losses", "noise"):
        table = TABLES[name]
        clean = [("scenes", key) for key in DIGITS]
        parts.append((f"{table.title}: clean latents", table_of(results, table, clean, list(HEADS.values()))))
        blurred = [(f"scenes, noise {s}", key) for s in ("0.2", "0.4") for key in ("psnr", "rfid", "right")]
        heads = [f"{HEADS[key]} at {what.rpartition(' ')[2]}" for what, key in blurred]
        parts.append((f"{table.title}: noised latents", table_of(results, table, blurred, heads)))
    table = TABLES["data"]
    wide = [(what, key) for what in ("scenes", "words", "text") for key in ("psnr", "ssim", "rfid")]
    heads = [f"{what}: {HEADS[key]}" for what, key in wide]
    parts.append((table.title, table_of(results, table, wide, heads)))
    table = TABLES["gan"]
    for variant in table.rows:
        if course := course_of(results, variant):
            parts.append((f"{table.title}: {table.title_of(variant)}", _course(course)))
    return "\n\n".join(f"## {title}\n\n{body}" for title, body in parts if body) + "\n"


def into_page(page: str, tables: str) -> str:
    """`page` with `tables` in place of what stands between its marks; headings go down by one.

    Raises:
        UserError: the page has no marks.
    """
    before, first, rest = page.partition(BEGIN)
    _, last, after = rest.partition(END)
    if not (first and last):
        raise UserError(f"--page: it needs the lines {BEGIN} and {END}, between which the tables stand")
    return f"{before}{BEGIN}\n\n{tables.replace('## ', '### ').strip()}\n\n{END}{after}"


def _course(course: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [str(row["step"]), row["phase"]]
        + [shown(row[key], DIGITS[key]) for key in ("psnr", "ssim", "rfid")]
        + [shown(row.get(name), 3) for name in _CRITIC]
        for row in course
    ]
    heads = [HEADS[key] for key in ("psnr", "ssim", "rfid")]
    return markdown(["step", "phase", *heads, *_CRITIC], rows)


def as_json(results: Results) -> dict[str, Any]:
    """Every number: protocols, each table's spreads, each cell's own figures and settings."""
    known = {row for table in TABLES.values() for row in table.rows}
    cells = [
        {
            **{key: result[key] for key in ("cell", "variant", "seed", "settings", "curve", "records", "seconds")},
            "scores": {
                name: {key: values[key] for key in DIGITS if key in values} for name, values in result["scores"].items()
            },
        }
        for result in results
    ]
    variants = {name: scores_of(results, name) for name in sorted(known) if of_variant(results, name)}
    return {
        "format": 1,
        "spread": "mean and sample standard deviation over seeds",
        "tables": {name: list(table.rows) for name, table in TABLES.items()},
        "protocols": protocols(results),
        "variants": variants,
        "courses": {name: course for name in TABLES["gan"].rows if (course := course_of(results, name))},
        "cells": cells,
    }
