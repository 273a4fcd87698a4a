"""Write tests/golden/STAGE.json: the first 20 losses of every nano stage at a tiny size, for tests/e2e/test_golden.py.

Run it after a change that is meant to change the numbers, and say in the commit why they changed:

    python tools/make_golden.py
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Remake the files."""
    sys.path.insert(0, str(ROOT))
    from tests.stages import golden_curves

    folder = ROOT / "tests" / "golden"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        curves = golden_curves(Path(scratch))
    for stage, losses in curves.items():
        path = folder / f"{stage}.json"
        path.write_text(json.dumps([float(f"{loss:.7g}") for loss in losses], indent=1) + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
