"""The tree keeps its rules: imports go downward, devices and the environment have one place, importing does nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.layers import ALLOWED, MAX_LINES, check_module, check_tree

ROOT = Path(__file__).parents[1] / "src" / "raexla"


def test_the_tree_keeps_the_rules():
    violations = [str(violation) for violation in check_tree(ROOT)]
    assert violations == []


def test_the_table_of_layers_has_no_circle():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {package for package, below in ALLOWED.items() if package not in done and below <= done}
        assert ready, f"these stand above each other: {sorted(set(ALLOWED) - done)}"
        done |= ready


IMPORT_ALL = """
import importlib, pkgutil, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(f"{event} {args}") if event in (
    "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir", "urllib.Request") else None)
import raexla
for module in pkgutil.walk_packages(raexla.__path__, "raexla."):
    if module.name != "raexla.__main__":
        importlib.import_module(module.name)
import torch
assert not torch.cuda.is_initialized(), "a CUDA device was opened"
if "torch_xla" in sys.modules:
    import torch_xla
    assert not torch_xla._XLAC._xla_runtime_is_initialized(), "an XLA device was opened"
ours = [line for line in opened if "raexla" in line or line.startswith(("socket.", "urllib"))]
assert not ours, ours
"""


def test_importing_every_module_opens_no_network_and_no_device():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


# --- the rules themselves, on modules that break them

CLEAN = '''
"""A module that keeps every rule."""
import os.path
from raexla.nn.rope import rotate
from raexla.recipe import Recipe

SIZE = int("3")

def read(path, start=len("x")):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        raise
    except Exception:
        os.path.join("a", "b")
        raise

if __name__ == "__main__":
    print(open("x"))
'''


def test_a_clean_module_is_clean():
    assert check_module(CLEAN, "raexla.flow.path") == []


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("raexla.nn.rope", "import raexla.flow.path", "nn imports flow"),
        ("raexla.nn.rope", "from raexla.obs import Metrics", "nn imports obs"),
        ("raexla.flow.path", "from raexla import models", "flow imports models"),
        ("raexla.flow.path", "from ..models.dit import block", "flow imports models"),
        ("raexla.models.dit.block", "from ...train import loop", "models imports train"),
        ("raexla.models.dit.__init__", "'''x'''\nfrom ...data import x", "models imports data"),
        ("raexla.models.dit.block", "def f():\n    from raexla.runtime import mesh", "models imports runtime"),
        ("raexla.data.order", "import importlib\nimportlib.import_module('raexla.train.loop')", "data imports train"),
        ("raexla.sampling.images", "import raexla.eval", "sampling imports eval"),
        ("raexla.train.loop", "from raexla.cli import app", "train imports cli"),
        ("raexla.newcomer.x", "x = 1", "not in the table"),
        ("raexla.train.loop", "import torch_xla.core.xla_model as xm", "torch_xla outside plan and runtime"),
        ("raexla.train.loop", "def f():\n    from torch_xla import runtime", "torch_xla outside plan and runtime"),
        ("raexla.models.x", "import os\ndef f():\n    return os.environ.get('X')", "os.environ outside"),
        ("raexla.models.x", "from os import environ", "os.environ outside"),
        ("raexla.models.x", "import os\ndef f():\n    return os.getenv('X')", "os.getenv outside"),
        ("raexla.cli", "import os\nx = os.environ['X']", "os.environ outside"),
        ("raexla.data.x", "import pickle", "imports pickle"),
        ("raexla.data.x", "def f(t):\n    return yaml.load(t)", "yaml.load"),
        ("raexla.data.x", "def f(p):\n    return torch.load(p)", "torch.load without weights_only"),
        ("raexla.data.x", "def f(p):\n    return torch.load(p, weights_only=False)", "torch.load without weights_only"),
        ("raexla.data.x", "def f(t):\n    t.extractall('.')", "extracts an archive"),
        ("raexla.data.x", "def f(c):\n    subprocess.run(c, shell=True)", "shell=True"),
        ("raexla.data.x", "def f(c):\n    M.from_pretrained(c, trust_remote_code=True)", "trust_remote_code"),
        ("raexla.data.x", "def f(c):\n    np.load(c, allow_pickle=True)", "allow_pickle"),
        ("raexla.data.x", "def f(c):\n    return eval(c)", "eval"),
        ("raexla.data.x", "try:\n    x = 1\nexcept Exception:\n    pass", "broad `except`"),
        ("raexla.data.x", "try:\n    x = 1\nexcept (OSError, BaseException):\n    pass", "broad `except`"),
        ("raexla.data.x", "try:\n    x = 1\nexcept:\n    pass", "broad `except`"),
        ("raexla.cli_model", "try:\n    x = 1\nexcept Exception:\n    pass", "broad `except`"),
        ("raexla.data.x", "WORDS = open('words').read()", "open(...) while"),
        ("raexla.data.x", "import pathlib\nW = pathlib.Path(__file__).read_text()", ".read_text(...) while"),
        ("raexla.data.x", "class A:\n    b = fsspec.open('gs://x')", "fsspec.open(...) while"),
        ("raexla.data.x", "def f(x=open('words')):\n    pass", "open(...) while"),
        ("raexla.data.x", "if True:\n    M = AutoModel.from_pretrained('x')", "AutoModel.from_pretrained(...) while"),
        ("raexla.runtime.x", "D = torch.cuda.is_available()", "torch.cuda.is_available(...) while"),
        ("raexla.runtime.x", "torch.manual_seed(0)", "torch.manual_seed(...) while"),
        ("raexla.data.x", "x = 1\n" * (MAX_LINES + 1), "lines, over"),
        ("raexla.data.__init__", "x = 1", "docstring"),
    ],
)
def test_a_violation_is_caught(module, source, rule):
    found = check_module(source, module)
    assert any(rule in str(violation) for violation in found), [str(violation) for violation in found]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("raexla.runtime.xla", "import torch_xla\nimport os\nx = os.environ.get('X')"),
        ("raexla.plan.compile", "import torch_xla"),
        ("raexla.launch.doctor", "from os import environ"),
        ("raexla.train.loop", "from raexla.eval import report\nfrom raexla.models.dit import block"),
        ("raexla.data.x", "# long file: one table of words\n" + "x = 1\n" * (MAX_LINES + 1)),
        ("raexla.data.x", "def f(p):\n    return torch.load(p, weights_only=True)"),
        ("raexla.data.x", "F = lambda: open('x')"),
        ("raexla.cli", "try:\n    x = 1\nexcept Exception:\n    pass"),
        ("raexla.cli_model", "from raexla.cli import app\nfrom raexla.train import loop"),
        ("raexla.models.x", "import torch\nmodel.eval()\nmodule.exec = 3"),
    ],
)
def test_what_is_allowed_is_allowed(module, source):
    assert [str(violation) for violation in check_module(source, module)] == []


def test_a_folder_without_init_is_caught(tmp_path):
    (tmp_path / "raexla" / "nn").mkdir(parents=True)
    (tmp_path / "raexla" / "__init__.py").write_text('"""x"""\n')
    (tmp_path / "raexla" / "nn" / "rope.py").write_text("")
    assert [str(violation) for violation in check_tree(tmp_path / "raexla")] == [
        "raexla/nn:1: a package without __init__.py"
    ]
