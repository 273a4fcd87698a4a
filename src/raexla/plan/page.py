"""A plan as one self-contained HTML page, in the look of `raexla report`: no network, no scripts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from raexla.plan.intake import checkpoint_gib
from raexla.plan.program import ProgramFacts, alike
from raexla.plan.report import CAVEAT, Plan
from raexla.plan.slices import GIB
from raexla.plan.text import hours_text, mesh_text, seconds_text, size_text
from raexla.plan.waste import by_network, run_again

_MOST = 16


@dataclass(frozen=True)
class Row:
    """A line of a table with a bar. share: of the whole, 0 to 1. style: a colour of the style sheet."""

    name: str
    figure: str
    share: float
    style: str = "a"
    note: str = ""


def write_page(plan: Plan, out: Path) -> Path:
    """Write the page to `out`, whole or not at all; returns `out`."""
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(render(plan), encoding="utf-8")
    temporary.replace(out)
    return out


def render(plan: Plan) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("raexla.plan", "."), PackageLoader("raexla.eval.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    facts = plan.facts
    return environment.get_template("plan.html.j2").render(
        plan=plan,
        title=Path(plan.recipe).stem,
        mesh=mesh_text(plan),
        caveat=CAVEAT,
        made=time.strftime("%d %B %Y, %H:%M UTC", time.gmtime()),
        headline=_headline(plan),
        parts=plan.counts.parts,
        memory=_memory(plan),
        together=plan.peak_hbm_gib,
        times=_times(plan),
        program=None if facts is None else _program(plan, facts),
        assumptions=plan.estimate.assumptions,
    )


def _headline(plan: Plan) -> list[tuple[str, str, str]]:
    guess, chip = plan.estimate, plan.where.chip
    rate = plan.images_per_second
    hosts, averaged = plan.where.hosts, any(part.averaged for part in plan.counts.parts)
    trained = sum(part.parameters for part in plan.counts.parts if part.trained)
    frozen = sum(part.parameters for part in plan.counts.parts if not part.trained)
    bound = "the compiled program's" if plan.compiled is not None else "an upper bound, in closed form"
    return [
        (
            "fits" if plan.fits else "does not fit",
            f"{size_text(plan.peak_hbm_gib * GIB)} of {chip.hbm_gib:g} GiB a chip",
            bound if plan.refused_gib is None else "the compiler found no way",
        ),
        (seconds_text(guess.step_seconds), "a step", f"longest: {guess.limit}"),
        (f"{guess.mfu:.1%}", "MFU", f"{plan.counts.model_flops / 1e15:.2f} PFLOP a step"),
        (
            f"{guess.images_per_second_per_chip:.1f}",
            "images/s a chip",
            f"{rate:,.0f}/s on {plan.where.chips} chips",
        ),
        (
            seconds_text(86400 * guess.days),
            f"for {plan.counts.steps:,} steps",
            f"{hours_text(guess.chip_hours)} chip-hours",
        ),
        (
            f"{size_text(rate * plan.intake.sample_bytes)}/s",
            "of input",
            f"{size_text(rate * plan.intake.sample_bytes / hosts)}/s on each of {hosts} host{'s' * (hosts > 1)} "
            f"({plan.intake.said})",
        ),
        (
            size_text(checkpoint_gib(plan.counts) * GIB),
            "a checkpoint",
            "weights, two moments" + ", averages" * averaged,
        ),
        (f"{trained / 1e9:.2f} B", "parameters are trained", f"{frozen / 1e9:.2f} B beside them are frozen"),
    ]


def _memory(plan: Plan) -> list[Row]:
    whole = plan.where.chip.hbm_gib
    rows = []
    for name, size in plan.standing_gib.items():
        style = "c" if name.startswith("activations") else "a"
        rows.append(Row(name, f"{size:.2f}", min(size / whole, 1.0), style))
    left = whole - plan.peak_hbm_gib
    if left > 0:
        rows.append(Row("free", f"{left:.2f}", left / whole, "b"))
    return rows


def _times(plan: Plan) -> list[Row]:
    guess = plan.estimate
    terms = {name: seconds for name, seconds in guess.terms.items() if seconds > 0}
    longest = max(*terms.values(), guess.step_seconds)
    rows = [Row(name, f"{seconds:.3f}", seconds / longest) for name, seconds in terms.items()]
    if guess.hidden:
        rows.append(Row("behind other work", f"-{guess.hidden:.3f}", guess.hidden / longest, "b"))
    return [*rows, Row("together", f"{guess.step_seconds:.3f}", guess.step_seconds / longest, "c")]


def _rows(pairs: Sequence[tuple[str, float]], total: float, unit: Any) -> list[Row]:
    longest = max((value for _, value in pairs), default=1.0) or 1.0
    return [Row(name, unit(value), value / longest, note=f"{value / max(total, 1):.1%}") for name, value in pairs]


def _tera(count: float) -> str:
    return f"{count / 1e12:.2f}"


def _program(plan: Plan, facts: ProgramFacts) -> dict[str, Any]:
    assert plan.compiled is not None
    assert plan.waste is not None
    chips, total = plan.where.chips, facts.product_flops
    temporaries = alike(facts.temporaries)[:_MOST]
    largest = max((size for _, _, size, _ in temporaries), default=1)
    sent = [(f"{kind} along {axis}", float(size)) for (kind, axis), size in facts.sent_by_kind.items()]
    return {
        "compiled": plan.compiled,
        "flops": _tera(total),
        "own": _tera(plan.counts.step_flops / chips),
        "waste": f"{plan.waste:+.1%}",
        "planned": f"{plan.counts.repeated_flops / plan.counts.step_flops:.1%}",
        "again": _rows([*run_again(facts).items()][:_MOST], total, _tera),
        "networks": _rows([*by_network(facts).items()], total, _tera),
        "weights": _rows([*facts.flops_by_place.items()][:_MOST], total, _tera),
        "types": ", ".join(f"{name} {count / max(total, 1):.1%}" for name, count in facts.flops_by_type.items()),
        "sent": size_text(facts.sent_bytes),
        "kinds": _rows(sent, facts.sent_bytes, size_text),
        "collectives": [
            (size_text(one.total), one.kind, one.axis, one.shape, one.times, "yes" if one.hidden else "no")
            for one in facts.largest_collectives(_MOST)
        ],
        "temporaries": [
            Row(f"{f'{times} x ' if times > 1 else ''}{shape}", size_text(size), size / largest, "c", where)
            for shape, times, size, where in temporaries
        ],
        "peak_at": facts.peak.at,
        "loops": [(loop.name, loop.trips) for loop in facts.loops],
    }
