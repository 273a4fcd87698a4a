"""Runs a function of a test file in a process of its own, with so many virtual XLA devices.

`python tests/harness.py FILE FUNCTION JSON_ARGUMENTS` prints the function's JSON result on the last line. The device
count is fixed when the XLA client starts, so each count needs its own process.
"""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Compiles three times as fast; wrong for benchmarks, right for tests.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
MARK = "harness result: "


def in_process(function: Callable[..., Any], *arguments: Any, seconds: float = 400) -> Any:
    """`function(*arguments)`, run in a fresh process; arguments and result are JSON values."""
    file = inspect.getsourcefile(function)
    command = [sys.executable, __file__, str(file), function.__name__, json.dumps(arguments)]
    environment = dict(os.environ, XLA_FLAGS=QUICK, OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="2")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        raise AssertionError(f"{function.__name__}{arguments} failed ({done.returncode}):\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix(MARK))


def main() -> None:
    """Entry point of the fresh process."""
    file, name, arguments = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parents[1]))  # `from tests import ...` as under pytest
    spec = importlib.util.spec_from_file_location("harness_target", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["harness_target"] = module
    spec.loader.exec_module(module)
    print(MARK + json.dumps(getattr(module, name)(*json.loads(arguments))), flush=True)


if __name__ == "__main__":
    main()
