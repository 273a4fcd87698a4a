"""The rules of the tree, as functions from source text to violations; `test_layers.py` applies them to src/.

They read the syntax tree and import nothing, so they see imports inside functions too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LINES = 400

# package -> the packages of raexla that it may import, besides itself. A module that stands directly in raexla/ is a
# package of its own here (`cli`, `__main__`).
_PURE = {"recipe", "obs"}
_MODELS = _PURE | {"nn", "flow", "losses", "optim", "models"}
_BELOW_TRAIN = _MODELS | {"files", "runtime", "data", "checkpoint", "sampling", "eval"}
ALLOWED: dict[str, set[str]] = {
    "recipe": set(),
    "nn": {"recipe"},  # errors: a file of weights that can't be read is the user's to put right
    "files": {"recipe"},  # local folders and object stores alike
    "obs": {"recipe"},  # its own recipe type stands beside it; `recipe` imports nothing, so no circle can come of it
    "flow": _PURE | {"nn"},
    "losses": _PURE | {"nn"},
    "optim": _PURE | {"nn"},
    "models": _PURE | {"nn", "flow"},
    "runtime": _PURE,
    "data": _PURE | {"files", "runtime"},
    "checkpoint": _PURE | {"files", "runtime"},
    "sampling": _MODELS | {"files", "runtime", "data", "checkpoint"},
    "eval": _MODELS | {"files", "runtime", "data", "checkpoint", "sampling"},  # scores what a model draws and says
    "formats": _PURE | {"files", "nn", "flow", "models", "runtime", "data", "checkpoint", "sampling"},
    "train": _BELOW_TRAIN,
    "synth": _BELOW_TRAIN | {"train"},
    "plan": _BELOW_TRAIN | {"train"},
    "launch": _BELOW_TRAIN | {"train"},
    "cli": _BELOW_TRAIN | {"formats", "train", "synth", "plan", "launch", "cli_ckpt", "cli_model", "cli_shards"},
    "cli_ckpt": _BELOW_TRAIN | {"formats"},
    "cli_model": _BELOW_TRAIN,
    "cli_shards": _BELOW_TRAIN,
    "__main__": {"cli"},
    "__init__": set(),
}

# what only some packages may touch
ONLY_IN: dict[str, set[str]] = {
    "torch_xla": {"runtime", "plan"},
    "os.environ": {"runtime", "launch"},
    "os.environb": {"runtime", "launch"},
    "os.getenv": {"runtime", "launch"},
    "os.putenv": {"runtime", "launch"},
    "os.unsetenv": {"runtime", "launch"},
}

# modules that nothing may import: they run what they read, or reach out by themselves
BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}

# calls that nothing may make, by the end of their dotted name
BANNED_CALLS = {
    "yaml.load": "use yaml.safe_load or raexla.recipe",
    "yaml.unsafe_load": "use yaml.safe_load or raexla.recipe",
    "yaml.full_load": "use yaml.safe_load or raexla.recipe",
    "os.system": "use subprocess with a list",
    "eval": "never run text",
    "exec": "never run text",
}

# calls that open a file, a network or a device: not while a module is imported
_OPENS = {
    "open", "io.open", "fsspec.open", "fsspec.filesystem", "url_to_fs", "socket.socket", "socket.create_connection",
    "urlopen", "requests.get", "requests.post", "httpx.get", "subprocess.run", "subprocess.Popen",
    "subprocess.check_output", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "touch", "iterdir",
    "from_pretrained", "hf_hub_download", "snapshot_download", "torch.load", "load_file", "safe_open", "np.load",
    "numpy.load", "Image.open", "create_model", "is_available", "device_count", "torch.cuda.init", "init_process_group",
    "xla_device", "xm.xla_device", "xr.use_spmd", "use_spmd", "global_runtime_device_count", "torch_xla.device",
    "manual_seed", "set_num_threads", "set_default_dtype", "set_default_device", "basicConfig",
}  # fmt: skip


@dataclass(frozen=True)
class Violation:
    """A broken rule, where."""

    place: str
    line: int
    rule: str

    def __str__(self) -> str:
        return f"{self.place}:{self.line}: {self.rule}"


def check_module(source: str, module: str, place: str = "") -> list[Violation]:
    """Every violation in the source of a module (`raexla.models.dit.block`; a package is `raexla.nn.__init__`)."""
    place = place or module
    tree = ast.parse(source)
    package = module.split(".")[1]
    if package.startswith("cli_"):  # the command line, split by groups of verbs
        package = "cli"
    found: list[Violation] = []

    def report(node: ast.AST | None, rule: str) -> None:
        found.append(Violation(place, getattr(node, "lineno", 1), rule))

    if package not in ALLOWED:
        report(None, f"the package {package!r} is not in the table of layers")
        return found
    for node, name in _imports(tree, module):
        _check_import(name, package, node, report)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _check_only_in(_dotted(node), package, node, report)
        elif isinstance(node, ast.Call):
            _check_call(node, package, report)
        elif isinstance(node, ast.ExceptHandler) and module != "raexla.cli" and _is_broad(node):
            report(node, "a broad `except` (only the command line has one)")
    for call in _calls_at_import(tree):
        name = _dotted(call.func)
        if any(name == opener or name.endswith("." + opener) for opener in _OPENS):
            report(call, f"{name}(...) while the module is imported")
    lines = source.splitlines()
    if len(lines) > MAX_LINES and not any(line.startswith("# long file: ") for line in lines):
        report(None, f"{len(lines)} lines, over {MAX_LINES}, without a `# long file: reason` line")
    if module.endswith(".__init__") and not ast.get_docstring(tree):
        report(None, "a package opens with a docstring that is its design note")
    return found


def check_tree(root: Path) -> list[Violation]:
    """Every violation under `root`, the folder `raexla`."""
    found: list[Violation] = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root.parent)
        module = ".".join(relative.with_suffix("").parts)
        found.extend(check_module(path.read_text(encoding="utf-8"), module, str(relative)))
    for folder in sorted({path.parent for path in root.rglob("*.py")}):
        if not (folder / "__init__.py").is_file():
            found.append(Violation(str(folder.relative_to(root.parent)), 1, "a package without __init__.py"))
    return found


# --- imports


def _imports(tree: ast.AST, module: str) -> Iterator[tuple[ast.AST, str]]:
    """Each imported name, absolute: `from raexla.nn import rope` gives `raexla.nn.rope`."""
    parts = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*parts[: len(parts) - node.level], *([node.module] if node.module else [])])
            for alias in node.names:
                yield node, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and _dotted(node.func) in (
            "importlib.import_module",
            "import_module",
            "__import__",
        ):
            if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                yield node, node.args[0].value


def _check_import(name: str, package: str, node: ast.AST, report) -> None:
    top, _, rest = name.partition(".")
    if top == "raexla":
        target = rest.split(".")[0]
        if target and target in ALLOWED and target != package and target not in ALLOWED[package]:
            report(node, f"{package} imports {target}, which does not stand below it")
    if top in BANNED_MODULES:
        report(node, f"imports {top}")
    _check_only_in(name, package, node, report)


def _check_only_in(name: str, package: str, node: ast.AST, report) -> None:
    for restricted, packages in ONLY_IN.items():
        if name == restricted or (name.startswith(restricted + ".") and not isinstance(node, ast.Attribute)):
            if package not in packages:
                report(node, f"{restricted} outside {' and '.join(sorted(packages))}")


# --- calls


def _dotted(node: ast.AST) -> str:
    """`torch.cuda.is_available`; for a call on something unnamed, the attribute with a leading dot."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def _check_call(node: ast.Call, package: str, report) -> None:
    name = _dotted(node.func)
    if name in BANNED_CALLS:
        report(node, f"{name}: {BANNED_CALLS[name]}")
    if name in ("torch.load", "torch.jit.load") or name.endswith(".torch.load"):
        safe = any(
            key.arg == "weights_only" and isinstance(key.value, ast.Constant) and key.value.value is True
            for key in node.keywords
        )
        if not safe:
            report(node, f"{name} without weights_only=True")
    if name.endswith((".extractall", ".unpack_archive")) or name == "extractall":
        report(node, "extracts an archive")
    for key in node.keywords:
        if key.arg == "shell" and isinstance(key.value, ast.Constant) and key.value.value is True:
            report(node, f"{name} with shell=True")
        if key.arg == "trust_remote_code" and not (isinstance(key.value, ast.Constant) and key.value.value is False):
            report(node, f"{name} with trust_remote_code")
        if key.arg == "allow_pickle" and not (isinstance(key.value, ast.Constant) and key.value.value is False):
            report(node, f"{name} with allow_pickle")


def _is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    broad = any(_dotted(kind) in ("Exception", "BaseException") for kind in types)
    # cleaning up and raising again is not swallowing
    reraises = bool(handler.body) and isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
    return broad and not reraises


def _calls_at_import(tree: ast.Module) -> Iterator[ast.Call]:
    """The calls that run when the module is imported: outside function bodies, `if __name__ == ...`, TYPE_CHECKING."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # decorators and default values run at import, the body does not
            todo.extend([*node.decorator_list, *node.args.defaults, *[d for d in node.args.kw_defaults if d]])
        elif isinstance(node, ast.Lambda):
            todo.extend([*node.args.defaults, *[d for d in node.args.kw_defaults if d]])
        elif isinstance(node, ast.If) and ("__name__" in ast.dump(node.test) or "TYPE_CHECKING" in ast.dump(node.test)):
            todo.extend(node.orelse)
        else:
            if isinstance(node, ast.Call):
                yield node
            todo.extend(ast.iter_child_nodes(node))
