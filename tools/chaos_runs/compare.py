"""Whether two runs are one: the samples that they consumed, their losses, their parameters."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raexla.checkpoint import Checkpoint, latest
from raexla.obs import CONSUMED, read_lines, read_metrics

CLOCK = ("seconds", "images_per_second", "input_wait_seconds", "mfu", "compile_seconds", "compilations", "goodput")
"""What a record says of time: another at every run."""
LOSSES, PARAMETERS, EXACT_STEPS = 1e-4, 2e-4, 50
"""Between meshes: tolerances over the first steps; beyond them, drift is held against that of uninterrupted runs."""


@dataclass
class Findings:
    """What a comparison found: figures for the report, and what is wrong."""

    figures: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def consumed(run: Path) -> list[dict[str, Any]]:
    """The samples of each step."""
    return list(read_lines(run / CONSUMED))


def records(run: Path) -> list[dict[str, Any]]:
    """What does not depend on the clock, of each step."""
    found = [record for record in read_metrics(run) if "event" not in record]
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in found]


def tensors(run: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """All tensors of a run's last checkpoint, or of that of `step`."""
    folder = run / "checkpoints"
    found = latest(folder) if step is None else Checkpoint.open(folder / f"step-{step:08d}")
    assert found is not None
    found.verify()
    return dict(found.tensors())


def same_samples(expected: list[dict[str, Any]], run: Path, steps: int) -> list[str]:
    """What is wrong with the samples of a run: each step's, in their order, must be those of `expected`."""
    found = consumed(run)
    numbers = [record["step"] for record in found]
    if numbers != list(range(1, steps + 1)):
        missing = sorted(set(range(1, steps + 1)) - set(numbers))
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        return [f"{run.name}: the steps of consumed.jsonl are not 1 to {steps}: missing {missing}, twice {twice}"]
    return [
        f"{run.name}: step {ours['step']} consumed other samples: {_differing(theirs['uids'], ours['uids'])}"
        for theirs, ours in zip(expected, found, strict=True)
        if theirs["uids"] != ours["uids"]
    ][:3]


def _differing(expected: dict[str, list[str]], found: dict[str, list[str]]) -> str:
    theirs, ours = ({uid for uids in side.values() for uid in uids} for side in (expected, found))
    return f"missing {sorted(theirs - ours)[:4]}, instead {sorted(ours - theirs)[:4]}" if theirs != ours else "order"


def bit_for_bit(one: Path, other: Path, steps: int) -> Findings:
    """Every record and every tensor the same."""
    found = Findings()
    expected, ours = records(one), records(other)
    if [record["step"] for record in ours if "loss" in record] != list(range(1, steps + 1)):
        found.wrong.append(f"{other.name}: metrics.jsonl has not each step from 1 to {steps} once")
    differing = [a["step"] for a, b in zip(expected, ours, strict=False) if a != b]
    if differing or len(expected) != len(ours):
        found.wrong.append(
            f"{other.name}: {len(differing)} records of {len(ours)} differ from those of {one.name} "
            f"({len(expected)}), the first at step {differing[0] if differing else 'the end'}"
        )
    theirs, mine = tensors(one), tensors(other)
    names = [name for name in theirs if name not in mine or not np.array_equal(theirs[name], mine[name])]
    names += [name for name in mine if name not in theirs]
    if names:
        found.wrong.append(f"{other.name}: {len(names)} of {len(theirs)} tensors differ, among them {names[:3]}")
    hashes = [json.loads((run / "artifact" / "artifact.json").read_text())["files"] for run in (one, other)]
    if hashes[0] != hashes[1]:
        found.wrong.append(f"{other.name}: the artifact's files differ from those of {one.name}")
    found.figures = {"records": len(ours), "tensors": len(mine), "differing": len(differing) + len(names)}
    return found


def _loss_gaps(one: Path, other: Path) -> dict[int, float]:
    pairs = [{r["step"]: r["loss"] for r in records(run) if "loss" in r} for run in (one, other)]
    return {step: abs(value - pairs[1].get(step, float("inf"))) for step, value in pairs[0].items()}


def _gap(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Largest difference of a parameter or its moving average."""
    names = [name for name in one if name.startswith(("model/", "ema/"))]
    return max(float(np.abs(one[name].astype(np.float64) - other[name]).max()) for name in names if one[name].size)


def _saved(run: Path) -> set[int]:
    """The steps of a run's checkpoints."""
    return {int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")}


def within(one: Path, other: Path, steps: int, drift_between: tuple[Path, Path]) -> Findings:
    """Losses and parameters within the tolerances at first, and no more drift than between two undisturbed runs."""
    found, early = Findings(), min(EXACT_STEPS, steps)
    gaps, drifts = _loss_gaps(one, other), _loss_gaps(*drift_between)
    saved = next(step for step in sorted(_saved(one) & _saved(other)) if step >= early)
    figures = {
        f"loss, steps 1 to {early}": (max(gaps[s] for s in gaps if s <= early), LOSSES),
        f"parameters, step {saved}": (_gap(tensors(one, saved), tensors(other, saved)), PARAMETERS),
    }
    if steps > early:
        apart = [tensors(run, steps) for run in (one, other, *drift_between)]
        figures |= {
            f"loss, steps {early + 1} to {steps}": (
                max(gaps[s] for s in gaps if s > early),
                max(LOSSES, *(drifts[s] for s in drifts if s > early)),
            ),
            f"parameters, step {steps}": (_gap(apart[0], apart[1]), max(PARAMETERS, _gap(apart[2], apart[3]))),
        }
        found.figures |= {
            f"undisturbed 1 and 4 devices: loss, steps {early + 1} to {steps}": max(
                drifts[s] for s in drifts if s > early
            ),
            f"undisturbed 1 and 4 devices: parameters, step {steps}": _gap(apart[2], apart[3]),
        }
    for name, (value, limit) in figures.items():
        found.figures[name] = value
        if not value <= limit:
            found.wrong.append(f"{other.name}: {name}: {value:.2e} apart from {one.name}, {limit:.2e} is the limit")
    return found
