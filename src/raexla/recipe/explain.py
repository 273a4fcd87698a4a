"""pydantic's validation errors -> problems with a file, a line, a dotted path and the nearest valid key."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from raexla.recipe.source import Node, Problem, dotted

Path = tuple[str | int, ...]

_SHOULD_BE = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be text (a path)",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a map",
    "model_type": "must be a map",
    "model_attributes_type": "must be a map",
    "finite_number": "must be a finite number",
    "none_required": "must be null",
}


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'steps'?` if one of the choices is close to the word, else an empty string."""
    by_folded = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), list(by_folded), n=1, cutoff=0.6)
    return f"; did you mean {by_folded[close[0]]!r}?" if close else ""


def explain(errors: Sequence[ErrorDetails], model: type[BaseModel], tree: Node) -> list[Problem]:
    """One problem for each place at which `model` refused the tree."""
    messages: dict[Path, list[str]] = {}
    alternatives: set[Path] = set()
    for error in errors:
        path, owner, union = _resolve(model, error["loc"], tree)
        messages.setdefault(path, []).append(_message(error, path, owner))
        if union is not None:
            alternatives.add(union)
    problems: list[Problem] = []
    for path, texts in messages.items():
        # `int | tuple[int, int]` given [1, "a"]: the arm that got further tells what is wrong
        if path in alternatives and any(other[: len(path)] == path and other != path for other in messages):
            continue
        problems.append(Problem(_locate(tree, path).origin, dotted(path), _either(list(dict.fromkeys(texts)))))
    return problems


def _either(texts: list[str]) -> str:
    """`is 'x', must be a list` and `is 'x', must be text` -> `is 'x', must be a list or text`."""
    split = [text.partition(", must be ") for text in texts]
    if len({(is_what, link) for is_what, link, _ in split}) == 1 and split[0][1]:
        return split[0][0] + split[0][1] + " or ".join(what for _, _, what in split)
    return ", or ".join(texts)


def _message(error: ErrorDetails, path: Path, owner: Any) -> str:
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(path[-1]), owner)
    if kind == "missing":
        return "required, and missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        valid = [tag.strip().strip("'") for tag in str(context.get("expected_tags", "")).split(",")]
        valid = [tag for tag in valid if tag] or _tags(owner)
        names = ", ".join(valid)
        key = str(context["discriminator"]).strip("'")
        if kind == "union_tag_not_found":
            return f"needs a `{key}:`, one of {names}"
        tag = str(context["tag"])
        return f"unknown {key} {tag!r}{nearest(tag, valid)} (valid: {names})"
    if kind in ("literal_error", "enum"):
        expected = str(context["expected"])  # 'a', 'b' or 'c'
        words = [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]
        return f"is {_shown(given)}, must be {expected}{nearest(str(given), words)}"
    if kind in ("value_error", "assertion_error"):
        return error["msg"].split(", ", 1)[-1]
    if kind in _SHOULD_BE:
        return f"is {_shown(given)}, {_SHOULD_BE[kind]}"
    text = error["msg"].replace("Input should", "must").replace("Value should", "must")
    return f"is {_shown(given)}, {text[:1].lower()}{text[1:]}"


def _unknown_key(key: str, owner: Any) -> str:
    if not (isinstance(owner, type) and issubclass(owner, BaseModel)):
        return "unknown key"
    valid = list(owner.model_fields)
    near = nearest(key, valid)
    return f"unknown key{near}" if near else f"unknown key (valid here: {', '.join(valid)})"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list):
        return "a list" if len(str(value)) > 40 else str(value)
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _locate(tree: Node, path: Path) -> Node:
    """The deepest node on the path that was written down: for a missing key, the map that lacks it."""
    node = tree
    for part in path:
        child = _child(node, part)
        if child is None:
            break
        node = child
    return node


# --- pydantic's location -> the path in the recipe. The location also names arms of unions, which no recipe contains,
# so it is followed along the types.


def _resolve(model: Any, location: Sequence[str | int], tree: Node) -> tuple[Path, Any, Path | None]:
    """The path in the recipe; the type whose keys or tags are valid there; where an untagged union was met, if any."""
    path: list[str | int] = []
    current: Any = model
    owner: Any = model
    union: Path | None = None
    for part in location:
        current = _strip(current)
        origin = get_origin(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            owner = current
            path.append(part)
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        elif origin in (Union, types.UnionType):
            if str(part) not in _tags(current):
                union = tuple(path)
            owner = current = _arm(current, str(part))  # the label is not part of the path
        elif origin in (list, tuple, set, frozenset, Sequence, typing.Sequence):
            owner, current = current, _item(current, part)
            path.append(part)
        elif origin in (dict, Mapping):
            if part == "[key]":
                continue
            owner, current = current, get_args(current)[-1]
            path.append(part)
        elif _exists(tree, (*path, part)) or part == location[-1]:
            path.append(part)
    if get_origin(_strip(current)) in (Union, types.UnionType):
        owner = _strip(current)
    return tuple(path), owner, union


def _exists(tree: Node, path: Path) -> bool:
    node = tree
    for part in path:
        child = _child(node, part)
        if child is None:
            return False
        node = child
    return True


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(str(part))
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None


def _strip(annotation: Any) -> Any:
    """Without Annotated, without aliases, without `| None` where one arm is left."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):  # a TypeAliasType
            annotation = annotation.__value__
        elif get_origin(annotation) in (Union, types.UnionType):
            arms = [arm for arm in get_args(annotation) if arm is not type(None)]
            if len(arms) != 1:
                return annotation
            annotation = arms[0]
        else:
            return annotation


def _arms(union: Any) -> list[Any]:
    """The arms of a union, nested unions opened."""
    arms: list[Any] = []
    for arm in get_args(union):
        bare = _strip(arm)
        arms.extend(_arms(bare) if get_origin(bare) in (Union, types.UnionType) else [bare])
    return arms


def _arm_tags(arm: Any) -> tuple[str, ...]:
    if not (isinstance(arm, type) and issubclass(arm, BaseModel)):
        return ()
    for name in ("type", "stage", "kind"):
        field = arm.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is Literal:
            return tuple(str(tag) for tag in get_args(field.annotation))
    return ()


def _tags(union: Any) -> list[str]:
    if get_origin(union) not in (Union, types.UnionType):
        return []
    return [tag for arm in _arms(union) for tag in _arm_tags(arm)]


def _arm(union: Any, label: str) -> Any:
    """The arm that pydantic calls by this label: a tag, a class name or a type's name; None if it cannot be told."""
    for arm in _arms(union):
        if label in _arm_tags(arm) or getattr(arm, "__name__", None) == label:
            return arm
    for arm in _arms(union):
        name = getattr(get_origin(arm), "__name__", "")
        if name and label.startswith(name):
            return arm
    return None


def _item(container: Any, index: str | int) -> Any:
    args = get_args(container)
    if get_origin(container) is tuple and len(args) > 1 and args[1] is not Ellipsis:
        return args[index] if isinstance(index, int) and index < len(args) else None
    return args[0] if args else None
