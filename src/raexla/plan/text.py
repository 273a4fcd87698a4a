"""A plan as lines for a person."""

from raexla.plan.estimate import LINKS, MEMORY, PRODUCTS
from raexla.plan.intake import checkpoint_gib
from raexla.plan.program import ProgramFacts, alike, work_lines
from raexla.plan.report import CAVEAT, Plan
from raexla.plan.waste import by_network, run_again

BAR = 24
"""Characters of a full bar."""


def lines(plan: Plan) -> list[str]:
    """The whole report; the verdict stands last, where a terminal ends."""
    out = [f"{plan.recipe} on {plan.where.name}: {plan.where.chips} chips, {mesh_text(plan)}"]
    for section in (_parts(plan), _memory(plan), _program(plan), _time(plan), _verdict(plan)):
        if section:
            out += ["", *section]
    return out


def mesh_text(plan: Plan) -> str:
    """`data 4 x fsdp 16`."""
    return " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "one device"


def _parts(plan: Plan) -> list[str]:
    counts = plan.counts
    scale, unit = scale_of(counts.step_flops, (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"))
    total = sum(part.parameters for part in counts.parts)
    size, letter = scale_of(total, (1e9, "B"), (1e6, "M"))
    out = [f"  {'network':<24} {'parameters':>12} {unit + '/step':>12}"]
    for part in counts.parts:
        note = "" if part.trained else "  frozen"
        out.append(f"  {part.name:<24} {part.parameters / size:10.3f} {letter} {part.step_flops / scale:12.3f}{note}")
    out.append(f"  {'together':<24} {total / size:10.3f} {letter} {counts.step_flops / scale:12.3f}")
    judging = counts.step_flops - counts.model_flops
    if judging:
        out.append(f"  {judging / scale:.3f} of it only judges and is not in MFU")
    if counts.repeated_flops:
        more = counts.repeated_flops / counts.step_flops
        out.append(f"  {counts.repeated_flops / scale:.3f} more ({more:.0%}) are run again backward (runtime.remat)")
    return out


def _memory(plan: Plan) -> list[str]:
    chip = plan.where.chip
    if plan.compiled is not None:
        head = "of a chip at the compiled step's fullest moment"
    else:
        head = "of a chip, in closed form (an upper bound: everything at once)"
    standing = plan.standing_gib
    together = sum(standing.values())
    scale, unit = scale_of(together, (1.0, "GiB"), (1 / 1024, "MiB"))
    out = [f"  {unit} {head}"]
    for name, size in standing.items():
        out.append(f"  {name:<28} {size / scale:8.2f}  {'#' * round(BAR * size / chip.hbm_gib)}".rstrip())
    out.append(
        f"  {'together':<28} {together / scale:8.2f} of {chip.hbm_gib / scale:,g}, {together / chip.hbm_gib:.1%}"
    )
    if plan.compiled is not None:
        made = plan.compiled
        out.append(
            f"  compiled in {made.seconds:.0f} s; allocated: arguments {made.arguments_gib / scale:.2f}, "
            f"temporaries {made.temporaries_gib / scale:.2f} with the gaps between buffers "
            f"(closed form: {plan.memory.total / scale:.2f})"
        )
    if plan.refused_gib is not None:
        out.append(f"  the compiler finds no way to fit: it needs {plan.refused_gib:.1f} GiB")
        out.append("  try runtime.remat=blocks, train.accumulate, losses.language_chunks, or --sweep")
    return out


def _program(plan: Plan) -> list[str]:
    if plan.facts is None:
        return []
    facts, counts = plan.facts, plan.counts
    own = counts.step_flops / plan.where.chips
    out = ["  The compiled program of one chip, loops counted as often as they run", *work_lines(facts, own)]
    networks = ", ".join(f"{name} {flops / facts.product_flops:.1%}" for name, flops in by_network(facts).items())
    out.insert(2, f"    by network: {networks}")
    out += _waste(plan, facts)
    out.append(f"  largest temporaries at the fullest moment ({facts.peak.at})")
    for shape, times, size, where in alike(facts.temporaries)[:8]:
        out.append(f"    {size_text(size):>10}  {f'{times} x ' if times > 1 else ''}{shape} {where}")
    return out


def _waste(plan: Plan, facts: ProgramFacts) -> list[str]:
    assert plan.waste is not None
    planned = plan.counts.repeated_flops / plan.counts.step_flops
    out = [f"  beyond the recipe's own products: {plan.waste:+.1%} (planned by runtime.remat: {planned:.1%})"]
    for weight, flops in list(run_again(facts).items())[:8]:
        out.append(f"    {flops / facts.product_flops:6.1%}  run again: {weight}")
    return out


def _time(plan: Plan) -> list[str]:
    guess = plan.estimate
    scale, unit = scale_of(guess.step_seconds, (0.1, "seconds"), (0.0, "milliseconds"))
    scale = 1.0 if unit == "seconds" else 1e-3
    out = [f"  {unit} a step, from the {guess.source}"]
    notes = {
        PRODUCTS: f"at {guess.assumptions['matmul_efficiency']:.0%} of {plan.where.chip.bf16_flops / 1e12:g} TFLOP/s",
        MEMORY: "beyond the products: instructions that wait for it"
        if plan.facts is not None
        else "the optimiser's numbers, read and written; nothing else that waits for it",
        LINKS: "collectives, before any is hidden",
    }
    for name, seconds in guess.terms.items():
        if seconds > 0:
            out.append(f"  {name:<28} {seconds / scale:8.3f}  {notes.get(name, '')}".rstrip())
    if guess.hidden:
        out.append(f"  {'behind other work':<28} {-guess.hidden / scale:8.3f}")
    out.append(f"  {'together':<28} {guess.step_seconds / scale:8.3f}")
    used = {name: value for name, value in guess.assumptions.items() if name != "recompute" or value}
    out.append(f"  assumed: {', '.join(f'{name} {value:g}' for name, value in used.items())}")
    return out


def _verdict(plan: Plan) -> list[str]:
    guess, chips, hosts = plan.estimate, plan.where.chips, plan.where.hosts
    rate = plan.images_per_second
    eaten = rate * plan.intake.sample_bytes
    hours = hours_text(guess.chip_hours)
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    return [
        f"  {verdict}: {size_text(plan.peak_hbm_gib * 2**30)} of {plan.where.chip.hbm_gib:g} GiB a chip",
        f"  {seconds_text(guess.step_seconds)} a step, MFU {guess.mfu:.1%}, {rate / chips:,.1f} images/s a chip "
        f"({rate:,.0f}/s together); longest: {guess.limit}",
        f"  {plan.counts.steps:,} steps: {seconds_text(86400 * guess.days)}, {hours} chip-hours; "
        f"a checkpoint is {size_text(checkpoint_gib(plan.counts) * 2**30)}",
        f"  input: {size_text(eaten)}/s together; each of {hosts} host{'s' if hosts > 1 else ''} reads "
        f"{size_text(eaten / hosts)}/s and decodes {rate / hosts:,.0f} samples/s ({plan.intake.said})",
        f"  {CAVEAT}",
    ]


def scale_of(largest: float, *units: tuple[float, str]) -> tuple[float, str]:
    """The first unit (its size and name) that `largest` reaches, else the last."""
    return next((unit for unit in units if largest >= unit[0]), units[-1])


def seconds_text(seconds: float) -> str:
    """`3.1 ms`, `1.21 s`, `5.0 minutes`, `6.2 hours`, `1.1 days`."""
    if seconds < 0.1:
        return f"{1000 * seconds:.2f} ms"
    if seconds < 120:
        return f"{seconds:.2f} s"
    size, name = scale_of(seconds, (86400, "days"), (7200, "hours"), (60, "minutes"))
    return f"{seconds / (3600 if name == 'hours' else size):.1f} {name}"


def hours_text(hours: float) -> str:
    """`645`, `0.02`."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def size_text(count: float) -> str:
    """`1.5 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**10:.0f} KiB"
