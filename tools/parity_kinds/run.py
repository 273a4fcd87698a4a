"""Running one fixture: build, place, compute every tensor of the file as one program, judge."""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parity_kinds.case import COMPARED, Case
from parity_kinds.rules import ELEMENT_WISE, Row, Rule, judge
from parity_kinds.table import runner_of
from raexla.runtime import Runtime


@dataclass(frozen=True)
class Outcome:
    """What came of one fixture.

    Attributes:
        rows: one for each tensor that is compared, and one for each that should have been.
        notes: what a reader should know that is no failure.
        seconds: from building the modules to the last number.
    """

    case: Case
    rows: list[Row]
    notes: list[str]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether something was compared and all of it is within its rule."""
        return bool(self.rows) and all(row.ok for row in self.rows)


def run_case(case: Case, runtime: Runtime, relative: float = ELEMENT_WISE.factor) -> Outcome:
    """Run the fixture on `runtime`.

    Args:
        case: the fixture.
        runtime: where.
        relative: what element-wise kinds are allowed.

    Raises:
        UserError: its weights don't fit its config, or the config asks for something that isn't supported.
    """
    started = time.monotonic()
    runner = runner_of(case.kind)(case)
    for module in runner.modules:
        runtime.place(module)
    runner.inputs = {name: runtime.replicate(value.numpy()) for name, value in runner.inputs.items()}
    wanted = sorted(name for name in case.tensors if name.partition("/")[0] in COMPARED)

    def compute() -> dict[str, Tensor | None]:
        gradients = runner.gradients() if any(name.startswith("grad/") for name in wanted) else {}
        answers = {"output": runner.output, "grad": gradients.get, "derived": runner.derived}
        ours: dict[str, Tensor | None] = {}
        for name in wanted:
            part, _, rest = name.partition("/")
            ours[name] = answers[part](rest)
        return ours

    before = runtime.counters().fallbacks
    ours = runtime.compile(compute)()
    rows = []
    for name in wanted:
        value = ours[name]
        if value is None:
            rows.append(Row(name, f"not compared: {case.kind} has no counterpart for it here"))
            continue
        part, _, rest = name.partition("/")
        rows.append(
            judge(
                name,
                torch.from_numpy(runtime.to_host(value)),
                case.tensors[name],
                _scaled(runner.rule(part, rest), relative),
            )
        )
    rows += [
        Row(name, "is listed in the JSON, but not in the file")
        for name in sorted(case.listed - case.tensors.keys())
        if name.partition("/")[0] in COMPARED
    ]
    rows += [
        Row(f"on the host: {name}", f"ran on the CPU {count - before.get(name, 0)} times, outside the compiled program")
        for name, count in runtime.counters().fallbacks.items()
        if count > before.get(name, 0)
    ]
    unasked = case.config.unasked()
    notes = [f"config fields without a meaning here: {', '.join(unasked)}"] if unasked else []
    return Outcome(case, rows, notes, time.monotonic() - started)


def _scaled(rule: Rule, relative: float) -> Rule:
    """An element-wise rule with another tolerance, its proportions kept; others as they are."""
    return replace(rule, factor=rule.factor * relative / ELEMENT_WISE.factor) if rule.element_wise else rule
