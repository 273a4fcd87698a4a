"""Recipe file + its parents + `--set` options -> one validated, frozen recipe object."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from raexla.recipe.base import Recipe
from raexla.recipe.errors import UserError
from raexla.recipe.explain import explain, nearest
from raexla.recipe.merge import apply_set, merge
from raexla.recipe.source import Node, Origin, Problem, fail, parse

RecipeT = TypeVar("RecipeT", bound=Recipe)

Stages = Mapping[str, type[Recipe]] | Callable[[], Mapping[str, type[Recipe]]]
"""The table of stages, or a function that imports it: called only once the files have been read."""


def load(path: str | Path, stages: Stages, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file.

    `extends: other.yaml` (relative to the file that says so) names one parent, which may have its own; maps merge,
    lists and scalars replace, and where a `type` changes the inherited map's other keys are dropped. Then the
    overrides (`a.b=c`, the value in YAML) are laid over it one after the other, by the same rules. The key `stage`
    chooses the type of the result from `stages`.

    Raises UserError that lists every problem with its file and line.
    """
    tree, problems = _read_chain(Path(path), ())
    return _finish(tree, problems, stages, overrides)


def load_text(text: str, stages: Stages, overrides: Sequence[str] = (), *, name: str = "recipe") -> Recipe:
    """Like `load`, from text (a run directory's `recipe.yaml`, say); `extends:` is not allowed."""
    tree, problems = parse(text, name)
    if isinstance(tree.value, dict) and "extends" in tree.value:
        raise UserError(f"{tree.value['extends'].origin}: extends: only a recipe in a local file can extend another")
    return _finish(tree, problems, stages, overrides)


def load_key(path: str | Path, model: type[RecipeT], key: str) -> RecipeT:
    """One top-level key of a recipe file as `model`, which has that key alone; the file's other keys are not looked at.
    A file without that key is taken to be its value.

    Raises UserError that lists every problem with its file and line.
    """
    tree, problems = _read_chain(Path(path), ())
    part = tree.value.get(key, tree) if isinstance(tree.value, dict) else tree
    return _validated(Node({key: part}, tree.origin), model, problems)


def _finish(tree: Node, problems: list[Problem], stages: Stages, overrides: Sequence[str]) -> Recipe:
    if tree.value is None:
        tree = Node({}, tree.origin)
    if not isinstance(tree.value, dict):
        fail([*problems, Problem(tree.origin, "", "a recipe is a map of keys (stage, run, data, ...)")])
    for option in overrides:
        tree, more = apply_set(tree, option)
        problems = problems + more
    model, stage_problems = _stage(tree, stages() if callable(stages) else stages)
    problems = problems + stage_problems
    if model is None:
        fail(problems)
    assert model is not None
    return _validated(tree, model, problems)


def _validated(tree: Node, model: type[RecipeT], problems: list[Problem]) -> RecipeT:
    recipe: RecipeT | None = None
    try:
        # Strict JSON mode is the strictness meant for YAML: no text for numbers, but lists for tuples, text for paths.
        recipe = model.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        problems = problems + explain(error.errors(include_url=False), model, tree)
    fail(problems)
    assert recipe is not None
    return recipe


def _stage(tree: Node, stages: Mapping[str, type[Recipe]]) -> tuple[type[Recipe] | None, list[Problem]]:
    assert isinstance(tree.value, dict)
    valid = f" (valid: {', '.join(stages)})"
    node = tree.value.get("stage")
    if node is None:
        return None, [Problem(tree.origin, "stage", f"required, and missing{valid}")]
    if isinstance(node.value, str) and node.value in stages:
        return stages[node.value], []
    given = node.plain()
    near = nearest(str(given), stages)
    return None, [Problem(node.origin, "stage", f"unknown stage {given!r}{near}{valid}")]


def _read_chain(path: Path, below: tuple[Path, ...], asked_by: Origin | None = None) -> tuple[Node, list[Problem]]:
    """One file laid over its parents; `below` are the files that led here."""
    resolved = path.resolve()
    if resolved in below:
        raise UserError(f"{asked_by}: extends: goes in a circle: {' -> '.join(p.name for p in (*below, resolved))}")
    tree, problems = parse(_read(path, asked_by), str(path))
    if not isinstance(tree.value, dict) or "extends" not in tree.value:
        return tree, problems
    rest = dict(tree.value)
    extends = rest.pop("extends")
    if not isinstance(extends.value, str):
        return Node(rest, tree.origin), [*problems, Problem(extends.origin, "extends", "must name one recipe file")]
    above = Path(os.path.normpath(path.parent / extends.value))
    parent, more = _read_chain(above, (*below, resolved), extends.origin)
    return merge(parent, Node(rest, tree.origin)), problems + more


def _read(path: Path, asked_by: Origin | None) -> str:
    prefix = f"{asked_by}: extends: " if asked_by else ""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{prefix}no recipe {path}{_near_files(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{prefix}{path} is a directory, not a recipe{_listing(path)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{prefix}{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{prefix}cannot read {path}: {error.strerror}") from None


def _near_files(path: Path) -> str:
    """What else stands there: the closest names in the folder, or which folder is missing."""
    folder = path.parent
    if not folder.is_dir():
        return f" (there is no folder {folder})"
    by_stem = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in (".yaml", ".yml")}
    close = difflib.get_close_matches(path.stem, by_stem, n=3, cutoff=0.6)
    if path.stem in by_stem:
        close = [path.stem]
    if close:
        return f"; did you mean {' or '.join(str(by_stem[stem]) for stem in close)}?"
    return _listing(folder)


def _listing(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))
    if not names:
        return f" ({folder} holds no .yaml file)"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f" ({folder} holds {shown})"
