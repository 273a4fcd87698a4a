"""`extends:` and `--set`: one tree laid over another."""

from __future__ import annotations

from raexla.recipe.errors import UserError
from raexla.recipe.source import Node, Origin, Problem, parse


def merge(parent: Node, child: Node) -> Node:
    """Lay `child` over `parent`: maps merge key by key, everything else (lists, scalars, null) is replaced.

    Where both maps have a `type` and they differ, nothing of the parent's is kept: its keys belong to the other type.
    """
    if not isinstance(parent.value, dict) or not isinstance(child.value, dict):
        return child
    if "type" in parent.value and "type" in child.value:
        if parent.value["type"].plain() != child.value["type"].plain():
            return child
    merged = dict(parent.value)
    for key, node in child.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, child.origin)


def apply_set(root: Node, option: str) -> tuple[Node, list[Problem]]:
    """Lay one `--set a.b=c` over the tree. The value is YAML; a number in the path is a place in a list.

    Raises UserError if the option is not `path=value` or the value is not YAML; returns what else is wrong.
    """
    path, equals, text = option.partition("=")
    parts = path.strip().split(".")
    origin = Origin(f"--set {option}")
    if not equals or not all(parts):
        raise UserError(f"{origin}: write it as path.to.key=value, for example --set train.steps=100")
    value, problems = parse(text, str(origin), set_option=True)
    if problems:
        return root, problems
    return _place(root, parts, 0, value, origin)


def _place(node: Node, parts: list[str], depth: int, value: Node, origin: Origin) -> tuple[Node, list[Problem]]:
    if depth == len(parts):
        return merge(node, value), []
    here, part = ".".join(parts[:depth]), parts[depth]
    if isinstance(node.value, list):
        if not part.isdecimal() or int(part) >= len(node.value):
            places = f"has places 0 to {len(node.value) - 1}" if node.value else "is empty"
            return node, [Problem(origin, here, f"a list that {places}; {part!r} is not one of them")]
        items = list(node.value)
        items[int(part)], problems = _place(items[int(part)], parts, depth + 1, value, origin)
        return Node(items, node.origin), problems
    if node.value is not None and not isinstance(node.value, dict):
        return node, [Problem(origin, here, f"is {node.value!r} (from {node.origin}) and has no keys to set")]
    placed, problems = _place((node.value or {}).get(part, Node(None, origin)), parts, depth + 1, value, origin)
    # through merge, so that setting a `type` drops the other keys as it does in a file
    return merge(node, Node({part: placed}, node.origin)), problems
