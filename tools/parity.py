#!/usr/bin/env python
"""Run parity fixtures through the importer and this project's modules, and judge every tensor.

A fixture is FIXTURE.safetensors with FIXTURE.json beside it: weights under official names (`weight/...`), inputs
(`input/...`), what the official module made of them (`output/...`, gradients under `grad/...`), and a config.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from parity_kinds.case import read_case
from parity_kinds.rules import ELEMENT_WISE
from parity_kinds.run import Outcome, run_case
from parity_kinds.table import KINDS

from raexla.recipe import UserError
from raexla.runtime import EagerRecipe, Runtime, XlaRecipe, open_runtime

OK, FAILED, REFUSED = 0, 1, 2

QUICK_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Each program runs once, so what counts is its compilation; `XLA_FLAGS` of the user's own come first."""

RULES = """\
a tensor passes if no number is off by more than
  outputs of networks                  1e-4 x rms of the reference + 1e-6
  gradients                            2e-4 x rms of the reference + 1e-6
  element-wise kinds                   1e-6 relative: of the number itself, or of the rms where that is larger
  times through the inverse normal     1e-5 relative, likewise
'of limit' is the worst number's difference over what it is allowed; above 100% the tensor fails.
A tensor without a counterpart here fails, and so does one that the JSON lists and the file lacks.

exit status: 0 all tensors pass, 1 some don't, 2 a file is missing or can't be run (unknown kind, weights or config
that don't fit); every fixture is tried in any case."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    made = argparse.ArgumentParser(
        prog="tools/parity.py",
        description=f"{summary}\n\n{rest}",
        epilog=f"{RULES}\n\n{textwrap.fill('kinds: ' + ', '.join(sorted(KINDS)), 110)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "fixtures", nargs="+", metavar="FIXTURE.safetensors", help="fixtures, each with its .json beside it"
    )
    made.add_argument(
        "--runtime",
        choices=("eager", "xla"),
        default="eager",
        help="eager: plain PyTorch on the CPU; xla: PyTorch/XLA on the CPU, a fixture as one compiled program",
    )
    made.add_argument(
        "--relative",
        type=float,
        default=ELEMENT_WISE.factor,
        metavar="SHARE",
        help="what element-wise kinds are allowed (default 1e-6, the rule; eager reproduces them bit for bit, while a "
        "compiler that sums in another order was seen to differ by up to 8.5e-7 on the CPU)",
    )
    made.add_argument("--quiet", action="store_true", help="only tensors that fail, and the summary")
    return made


def show(outcome: Outcome, quiet: bool) -> None:
    """Print one fixture's table."""
    rows = [row for row in outcome.rows if not (quiet and row.ok)]
    if rows or not quiet:
        print(f"{outcome.case.name}  (kind {outcome.case.kind}, {outcome.seconds:.1f} s)")
    width = max((len(row.name) for row in rows), default=0)
    if any(row.problem is None for row in rows):
        print(f"  {'tensor':<{width}}  {'max abs':>8}  {'max/rms':>8}  {'limit':>9}  {'of limit':>8}")
    for row in rows:
        if row.problem is not None:
            print(f"  {row.name:<{width}}  FAIL  {row.problem}")
            continue
        numbers = f"{row.largest:8.1e}  {row.over_rms:8.1e}  {row.limit:>9}  {row.share:8.1%}"
        print(f"  {row.name:<{width}}  {numbers}  {'ok' if row.ok else 'FAIL'}")
    if not quiet:
        for note in outcome.notes:
            print(f"  note: {note}")
    if not outcome.rows:
        print("  FAIL  there is nothing to compare in this file")
    if rows or not quiet:
        print()


def summary(outcomes: Sequence[Outcome], refused: int, runtime: Runtime) -> str:
    """The last line."""
    rows = [(outcome.case.name, row) for outcome in outcomes for row in outcome.rows]
    failed = sum(not row.ok for _, row in rows)
    bad = sum(not outcome.ok for outcome in outcomes)
    verdict = f"{failed} of {_count(len(rows), 'tensor')} failed, in {_count(bad, 'fixture')}"
    if not bad:
        verdict = f"all {_count(len(rows), 'tensor')} within their rules"
    parts = [
        f"{_count(len(outcomes) + refused, 'fixture')} on {runtime.type}: {verdict if outcomes else 'none was run'}"
    ]
    if refused:
        parts.append(f"{_count(refused, 'fixture')} could not be run")
    measured = [(name, row) for name, row in rows if row.problem is None]
    if measured:
        name, worst = max(measured, key=lambda pair: pair[1].share)
        parts.append(f"nearest to its limit: {name} {worst.name}, {worst.share:.1%}")
    return "; ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = parser().parse_args(arguments)
    outcomes: list[Outcome] = []
    refused = 0
    if options.runtime == "xla":
        os.environ.setdefault("XLA_FLAGS", QUICK_COMPILE)
    try:
        runtime = open_runtime(
            XlaRecipe(platform="cpu", devices=1) if options.runtime == "xla" else EagerRecipe(device="cpu")
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    for path in options.fixtures:
        try:
            outcomes.append(run_case(read_case(path, KINDS), runtime, options.relative))
        except UserError as error:
            text = str(error)
            print(f"error: {text if text.startswith(path[:-12]) else f'{path}: {text}'}", file=sys.stderr)
            refused += 1
            continue
        show(outcomes[-1], options.quiet)
    print(summary(outcomes, refused, runtime))
    if refused:
        return REFUSED
    return OK if all(outcome.ok for outcome in outcomes) else FAILED


if __name__ == "__main__":
    sys.exit(main())
