"""What the parity tests run in a fresh process on torch_xla."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from raexla.runtime import XlaRecipe, open_runtime
from tests.parity.plain_cases import CASES

FOLDER = Path(__file__).parents[1] / "fixtures" / "parity"


def failures(public: Mapping[str, list[str]], made: list[str]) -> dict[str, list[str]]:
    """Fixture -> the tensors that fail on XLA, each with its numbers; [] if all of it passes.

    Args:
        public: public fixtures, each with the tensors to compare (all if none is named).
        made: names in `CASES`.
    """
    sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
    from parity_kinds.case import read_case
    from parity_kinds.run import run_case
    from parity_kinds.table import KINDS

    runtime = open_runtime(XlaRecipe(platform="cpu", devices=1))
    found: dict[str, list[str]] = {}
    with TemporaryDirectory() as folder:
        paths = {name: str(FOLDER / f"{name}.safetensors") for name in public}
        paths |= {
            name: CASES[name]().write(Path(folder), f"{CASES[name]().kind}_{chr(98 + i)}")
            for i, name in enumerate(made)
        }
        for name, path in paths.items():
            case = read_case(path, KINDS)
            if wanted := public.get(name):
                kept = {k: v for k, v in case.tensors.items() if k.startswith(("weight", "input")) or k in wanted}
                assert set(wanted) <= kept.keys()
                case = replace(case, tensors=kept, listed=frozenset())
            outcome = run_case(case, runtime)
            assert outcome.rows
            found[name] = [str(row) for row in outcome.rows if not row.ok]
    return found
