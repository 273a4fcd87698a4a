"""Running one fixture: build, place, compute every tensor of the file as one program, judge."""

from dataclasses import dataclass

import torch
from torch import Tensor

from parity_kinds.case import COMPARED, Case
from parity_kinds.rules import Row, judge
from parity_kinds.table import KINDS
from raexla.runtime import Runtime


@dataclass(frozen=True)
class Outcome:
    """What came of one fixture.

    Attributes:
        rows: one for each tensor that is compared, and one for each that should have been.
        notes: what a reader should know that is no failure.
    """

    case: Case
    rows: list[Row]
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether something was compared and all of it is within its rule."""
        return bool(self.rows) and all(row.ok for row in self.rows)


def run_case(case: Case, runtime: Runtime) -> Outcome:
    """Run the fixture on `runtime`.

    Raises:
        UserError: its weights don't fit its config, or the config asks for something that isn't supported.
    """
    runner = KINDS[case.kind](case)
    for module in runner.modules:
        runtime.place(module)
    runner.inputs = {name: runtime.replicate(value.numpy()) for name, value in runner.inputs.items()}
    wanted = sorted(name for name in case.tensors if name.partition("/")[0] in COMPARED)
    answers = {"output": runner.output, "grad": runner.gradient, "derived": runner.derived}

    def compute() -> dict[str, Tensor | None]:
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
        rows.append(judge(name, torch.from_numpy(runtime.to_host(value)), case.tensors[name], runner.rule(part, rest)))
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
    return Outcome(case, rows, notes)
