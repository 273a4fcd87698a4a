#!/usr/bin/env python
"""What each loss, the latent's noise, the data and the critic do to the nano decoder, at equal budget, over seeds.

Trains variants of recipes/nano/decoder.yaml through `raexla train`'s own path and scores each with the functions of
`raexla reconstruct`: PSNR, SSIM, Fréchet distance on the nano encoder's features (nano-rFID: no FID), its perceptual
distance (no LPIPS), and the share of reconstructed benchmark scenes that the nano scorer finds right. Run it from the
repository's root. A variant and seed that is done is not done again; stopped in the middle, it goes on.
"""

import argparse
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ablation.runs import RUNTIMES, Bench, done, run
from ablation.sheet import sheet
from ablation.summary import as_json, into_page, of_variant, read_results, report
from ablation.variants import RECIPE, TABLES, VARIANTS, cells

from raexla.checkpoint.files import write_json
from raexla.recipe import RaexlaError, StopRequested, UserError

TOLD = {"losses": "L1; + perceptual; + Gram; + GAN (as in the recipe, and loud)", "noise": "tau 0, 0.2, 0.8"}
TOLD |= {"data": "with and without words and rendered text", "gan": "the recipe as it is, validated every 20 steps"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    what = "\n".join(f"  {name:8}{TOLD[name]}" for name in TABLES)
    made = argparse.ArgumentParser(
        prog="tools/ablate_decoder.py",
        description=f"{summary}\n\n{rest}",
        epilog=f"what:\n{what}\n\n"
        + textwrap.fill(
            "writes OUT/cells (a result for each run), OUT/results.json, OUT/tables.md and OUT/sheet.png", 100
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("what", nargs="*", metavar="WHAT", help="tables to run for; none: only sum up what is done")
    made.add_argument("--out", type=Path, required=True, help="folder for runs, results, tables and the sheet")
    made.add_argument("--data", type=Path, default=Path("data/nano"), help="nano data; made if it isn't there")
    made.add_argument("--steps", type=int, default=200, help="of each run; `gan` keeps the recipe's (default 200)")
    made.add_argument("--seeds", type=int, default=3, help="0 to SEEDS - 1 (default 3)")
    made.add_argument("--variants", nargs="+", metavar="NAME", help=f"only these of them: {', '.join(VARIANTS)}")
    made.add_argument("--page", type=Path, help="a Markdown page whose tables (between marks) are replaced")
    made.add_argument("--runtime", choices=tuple(RUNTIMES), default="eager", help="what trains (default eager)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 the user's error, 75 stopped as asked; the same command goes on."""
    options = parser().parse_args(arguments)
    try:
        work(options)
    except RaexlaError as error:
        print(f"error: {error}" if isinstance(error, UserError) else str(error), file=sys.stderr)
        return 75 if isinstance(error, StopRequested) else 2
    return 0


def work(options: argparse.Namespace) -> None:
    """Run what isn't done, then sum up.

    Raises:
        UserError: a name that isn't known, no recipe here, or results made with other settings.
    """
    for given, known in ((options.what, TABLES), (options.variants or [], VARIANTS)):
        for name in given:
            if name not in known:
                raise UserError(f"{name!r} is not known; choose from {', '.join(known)}")
    if not Path(RECIPE).is_file():
        raise UserError(f"there is no {RECIPE} here: run this from the repository's root")
    if options.seeds < 1 or options.steps < 8:
        raise UserError(f"--seeds {options.seeds}, --steps {options.steps}: at least 1 seed and 8 steps are needed")
    bench = Bench(options.out, options.data, options.steps, options.runtime)
    wanted = [
        c for c in cells(options.what, options.seeds) if not options.variants or c.variant.name in options.variants
    ]
    todo = [cell for cell in wanted if not done(bench, cell)]
    if wanted:
        print(f"{len(wanted)} runs, {len(wanted) - len(todo)} of them done already", flush=True)
    if todo:
        train_and_score(bench, todo)
    sum_up(bench, options.page)


def train_and_score(bench: Bench, todo: Sequence) -> None:
    """Run these cells one after the other."""
    import numpy as np
    from ablation.scores import SHOWN, Scorer

    from raexla.recipe import load
    from raexla.train.stages import STAGES, train_recipe

    print("\n".join(bench.make_data()), flush=True)
    scorer = Scorer(bench.folders())
    bench.out.mkdir(parents=True, exist_ok=True)
    np.savez(bench.out / "originals.npz", **{name: scorer.originals(name) for name in SHOWN})
    for number, cell in enumerate(todo, 1):
        if done(bench, cell):  # by another process, on the same folder
            continue
        began = time.time()
        result = run(bench, cell, lambda sets: train_recipe(load(RECIPE, STAGES, sets)).path, scorer)
        first = result["scores"]["scenes"]
        print(
            f"{number}/{len(todo)} {cell.name}: {time.time() - began:.0f} s, "
            + ", ".join(f"{key} {value:.4g}" for key, value in first.items() if isinstance(value, float)),
            flush=True,
        )


def sum_up(bench: Bench, page: Path | None = None) -> None:
    """Tables and sheet of all that is done in this folder."""
    import numpy as np

    results = read_results(bench.out / "cells")
    if not results:
        raise UserError(f"{bench.out} holds no results: name what to run ({', '.join(TABLES)})")
    write_json(bench.out / "results.json", as_json(results))
    (bench.out / "tables.md").write_text(report(results), encoding="utf-8")
    if page is not None:
        page.write_text(into_page(page.read_text(encoding="utf-8"), report(results)), encoding="utf-8")

    def pictures(variant: str) -> dict[str, np.ndarray] | None:
        found = of_variant(results, variant)
        path = bench.out / "cells" / f"{found[0]['cell']}.npz" if found else None
        return None if path is None or not path.is_file() else dict(np.load(path))

    if (bench.out / "originals.npz").is_file():
        sheet(dict(np.load(bench.out / "originals.npz")), pictures).save(bench.out / "sheet.png", optimize=True)
    print(f"{len(results)} runs summed up: {bench.out / 'tables.md'}, {bench.out / 'results.json'}")


if __name__ == "__main__":
    sys.exit(main())
