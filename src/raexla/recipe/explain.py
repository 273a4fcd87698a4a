"""pydantic's validation errors -> problems with a file, a line, a dotted path and the nearest valid key."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
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
    """One problem for each error of `model.model_validate(tree)`; alternatives of one plain union become one problem."""
    messages: dict[Path, list[str]] = {}
    problems: list[Problem] = []
    for error in errors:
        path, owner = _resolve(model, error["loc"], tree)
        messages.setdefault(path, []).append(_message(error, path, owner))
    for path, texts in messages.items():
        unique = list(dict.fromkeys(texts))
        problems.append(Problem(_locate(tree, path).origin, dotted(path), ", or ".join(unique)))
    return problems


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
        valid_text = str(context["expected"])
        near = nearest(given, [part.strip("'") for part in _split_choices(valid_text)]) if isinstance(given, str) else ""
        return f"is {_shown(given)}, must be {valid_text}{near}"
    if kind in ("value_error", "assertion_error"):
        return error["msg"].split(", ", 1)[-1]
    if kind in _SHOULD_BE:
        return f"is {_shown(given)}, {_SHOULD_BE[kind]}"
    text = error["msg"].replace("Input should", "must").replace("Value should", "must")
    return f"is {_shown(given)}, {text[:1].lower()}{text[1:]}"


def _split_choices(text: str) -> list[str]:
    """pydantic's `'a', 'b' or 'c'` -> the three words, still quoted."""
    return [part.strip() for part in text.replace(" or ", ",").split(",")]


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
        if isinstance(node.value, dict) and str(part) in node.value:
            node = node.value[str(part)]
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            break
    return node


# --- pydantic's location -> the path in the recipe. The location also names arms of unions, which no recipe contains,
# so it is followed along the types.


def _resolve(model: Any, location: Sequence[str | int], tree: Node) -> tuple[Path, Any]:
    """The path in the recipe, and the type that stands at its parent (the one whose keys are valid there)."""
    path: list[str | int] = []
    current: Any = model
    owner: Any = model
    for part in location:
        current = _strip(current)
        origin = get_origin(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            owner = current
            path.append(part)
            field = current.model_fields.get(str(part))
            current = _field_type(field) if field else None
        elif origin in (Union, types.UnionType):
            current = _arm(current, str(part))  # not part of the path
            owner = current
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
    return tuple(path), owner


def _exists(tree: Node, path: Path) -> bool:
    found: Callable[[Node, Path], bool]

    def found(node: Node, rest: Path) -> bool:
        if not rest:
            return True
        if isinstance(node.value, dict):
            return str(rest[0]) in node.value and found(node.value[str(rest[0])], rest[1:])
        if isinstance(node.value, list):
            return isinstance(rest[0], int) and rest[0] < len(node.value) and found(node.value[rest[0]], rest[1:])
        return False

    return found(tree, path)


def _field_type(field: FieldInfo) -> Any:
    return field.annotation


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
