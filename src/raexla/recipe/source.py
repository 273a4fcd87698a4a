"""YAML text -> a tree that remembers the file and line of every value.

The dialect is YAML 1.2's core schema, not PyYAML's 1.1: `1e-4` is a number, `on`, `no` and `2026-11-22` are text,
`010` is ten, `12:30` is text. Duplicate keys, merge keys (`<<`), tags and cyclic aliases are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from raexla.recipe.errors import UserError

MAX_NODES = 100_000
"""More values than this in one file is an alias bomb, not a recipe."""

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a file and line (from 1), or a `--set` option (line None)."""

    name: str
    line: int | None = None

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


@dataclass(frozen=True)
class Node:
    """A value with its origin. Maps hold `dict[str, Node]`, lists `list[Node]`, everything else is a scalar."""

    value: dict[str, Node] | list[Node] | Scalar
    origin: Origin

    def plain(self) -> Any:
        """The same tree as ordinary dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it was written, its dotted path ("" for the whole recipe), what is wrong."""

    origin: Origin
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.path}: {self.message}" if self.path else f"{self.origin}: {self.message}"


def fail(problems: list[Problem]) -> None:
    """Raise one UserError that lists every problem, a line each, in the order of files and lines; nothing if none."""
    if not problems:
        return
    if len(problems) == 1:
        raise UserError(str(problems[0]))
    lines = list(dict.fromkeys(str(p) for p in sorted(problems, key=lambda p: (p.origin.name, p.origin.line or 0))))
    raise UserError(f"the recipe has {len(lines)} problems\n" + "\n".join(f"  {line}" for line in lines))


def dotted(path: tuple[str | int, ...]) -> str:
    """`("data", "sources", 0)` -> `data.sources.0`, as `--set` takes it."""
    return ".".join(str(part) for part in path)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalar rules of YAML 1.2's core schema (and `1_000`)."""


class _Dumper(yaml.SafeDumper):
    """The writer that goes with the loader: it quotes exactly the text that the loader would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never write anchors: equal values are written out."""
        return True


_CORE = "tag:yaml.org,2002:"
_KINDS = {"str", "int", "float", "bool", "null", "seq", "map"}
_NUMBER_START = list("-+0123456789.")
_RULES: list[tuple[str, str, list[str]]] = [
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+", _NUMBER_START),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        _NUMBER_START,
    ),
    ("merge", r"<<", ["<"]),
]
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in _RULES:
        _class.add_implicit_resolver(_CORE + _tag, re.compile(rf"^(?:{_pattern})$"), _first)


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds these line breaks away in its plain and single-quoted styles
    style = '"' if any(c in text for c in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(_CORE + "str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def write(value: Any) -> str:
    """Plain dicts, lists and scalars as YAML text that `parse` reads back as the same."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _scalar(node: yaml.ScalarNode) -> Scalar:
    """The value of a scalar node by its tag; raises ValueError where an explicit tag does not fit the text."""
    text, kind = node.value, node.tag.removeprefix(_CORE)
    plain = text.replace("_", "")
    if kind == "int":
        return int(plain, {"0x": 16, "0o": 8}.get(plain[:2], 10))
    if kind == "float":
        return float(re.sub(r"\.(inf|nan)$", r"\1", plain.lower()))
    if kind == "bool":
        return text.lower() == "true"
    return None if kind == "null" else text


class _Reader:
    """Walks PyYAML's node graph once, collecting problems instead of stopping at the first."""

    def __init__(self, name: str, set_option: bool) -> None:
        self.name, self.set_option = name, set_option
        self.problems: list[Problem] = []
        self.count = 0
        self.open: set[int] = set()

    def origin(self, node: yaml.Node) -> Origin:
        return Origin(self.name) if self.set_option else Origin(self.name, node.start_mark.line + 1)

    def problem(self, node: yaml.Node, path: tuple[str | int, ...], message: str) -> None:
        self.problems.append(Problem(self.origin(node), dotted(path), message))

    def read(self, node: yaml.Node, path: tuple[str | int, ...], origin: Origin | None = None) -> Node:
        origin = origin or self.origin(node)
        self.count += 1
        if self.count > MAX_NODES or len(path) > 50:
            raise UserError(f"{origin}: too large or too deep for a recipe (over {MAX_NODES} values or 50 levels)")
        if id(node) in self.open:
            self.problem(node, path, "an alias that contains itself")
            return Node(None, origin)
        self.open.add(id(node))
        try:
            return Node(self._value(node, path), origin)
        finally:
            self.open.discard(id(node))

    def _value(self, node: yaml.Node, path: tuple[str | int, ...]) -> dict[str, Node] | list[Node] | Scalar:
        if node.tag.removeprefix(_CORE) not in _KINDS:
            self.problem(node, path, f"the tag {node.tag!r} is not allowed in a recipe")
            return None
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._map(node, path)
        assert isinstance(node, yaml.ScalarNode)
        try:
            return _scalar(node)
        except ValueError:
            shown = node.value if len(node.value) < 40 else node.value[:37] + "..."
            self.problem(node, path, f"{shown!r} is not a valid {node.tag.removeprefix(_CORE)}")
            return None

    def _map(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, Node]:
        children: dict[str, Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, path, "a key must be text, not a list or a map")
                continue
            key = key_node.value
            if key_node.tag == _CORE + "merge":
                self.problem(key_node, path, "merge keys (<<) are not supported; use `extends:`")
            elif key in children:
                first = "" if self.set_option else f" (first on line {children[key].origin.line})"
                self.problem(key_node, (*path, key), f"duplicate key{first}")
            else:
                # a value counts as written where its key is: that is the line to look at
                children[key] = self.read(value_node, (*path, key), self.origin(key_node))
        return children


def parse(text: str, name: str, *, set_option: bool = False) -> tuple[Node, list[Problem]]:
    """Parse YAML text; `name` is how the origin is called in messages.

    Returns the tree and the problems that do not prevent reading on (duplicate keys, foreign tags).
    Raises UserError for text that is not YAML at all.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        origin = Origin(name) if set_option or mark is None else Origin(name, mark.line + 1)
        what = "; ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{origin}: not valid YAML: {what}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UserError(f"{name}: too deep for a recipe") from None
    reader = _Reader(name, set_option)
    if root is None:
        return Node(None, Origin(name) if set_option else Origin(name, 1)), []
    return reader.read(root, ()), reader.problems
