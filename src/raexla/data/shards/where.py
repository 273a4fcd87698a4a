"""Conditions on samples, such as `width >= 256 and similarity > 0.28`: a small language, never run as code.

Python's parser reads the condition; of its syntax only what stands in `_compile` is known: comparisons, `and or not`,
`in`, arithmetic on numbers, texts, numbers, lists, fields, and the functions of `FUNCTIONS`. Nothing can be called,
assigned, imported or reached but a sample's own fields.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from raexla.recipe import UserError

Values = Mapping[str, Any]
"""What is known of a sample: the fields of `FIELDS`, and `json`."""
Term = Callable[[Values], Any]

FIELDS = ("width", "height", "pixels", "aspect", "format", "image_bytes", "caption", "key", "shard")
"""Of the picture (`aspect` is width / height, `format` is JPEG, PNG ...), the first caption, the names. Any other name
is a field of the sample's JSON; so is `json.width`, where a field has one of these names. A dot goes into an object."""

FUNCTIONS: Mapping[str, Callable[..., Any]] = {"len": len, "lower": lambda text: _text(text).lower(), "abs": abs}

_COMPARE = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b, ast.IsNot: lambda a, b: a is not b,
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}  # fmt: skip
_LONGEST = 2000
_DEEPEST = 50


class Undecided(Exception):
    """A condition that can't be told of a sample: a field is missing, or of another type."""


class Where:
    """A condition; `holds(values)` says whether it is true of a sample."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: set[str] = set()
        """First parts of the fields that it reads."""
        try:
            if len(text) > _LONGEST:
                raise _Wrong(f"{len(text)} characters, at most {_LONGEST} are read")
            self._term = self._compile(ast.parse(text.strip(), mode="eval").body, 0)
        except SyntaxError as error:
            raise UserError(f"--where {text!r}: {error.msg} at character {error.offset}") from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise UserError(f"--where: it can't be read: {error}") from None
        except _Wrong as error:
            raise UserError(f"--where {text[:200]!r}: {error}") from None

    def holds(self, values: Values) -> bool:
        """Whether it is true. Raises `Undecided`."""
        try:
            return bool(self._term(values))
        except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            raise Undecided(f"{error}") from None

    def _compile(self, node: ast.expr, depth: int) -> Term:
        if depth > _DEEPEST:
            raise _Wrong(f"nested more than {_DEEPEST} deep")
        deeper = depth + 1
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return lambda values: value
            case ast.Name() | ast.Attribute() | ast.Subscript():
                return self._field(_path(node))
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                terms = [self._compile(part, deeper) for part in parts]
                return lambda values: [term(values) for term in terms]
            case ast.BoolOp(op=ast.And(), values=parts):
                terms = [self._compile(part, deeper) for part in parts]
                return lambda values: all(term(values) for term in terms)
            case ast.BoolOp(op=ast.Or(), values=parts):
                terms = [self._compile(part, deeper) for part in parts]
                return lambda values: any(term(values) for term in terms)
            case ast.UnaryOp(op=ast.Not(), operand=part):
                term = self._compile(part, deeper)
                return lambda values: not term(values)
            case ast.UnaryOp(op=ast.USub(), operand=part):
                term = self._compile(part, deeper)
                return lambda values: -term(values)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _arithmetic(_ARITHMETIC[type(op)], self._compile(left, deeper), self._compile(right, deeper))
            case ast.Compare(left=left, ops=ops, comparators=parts):
                terms = [self._compile(part, deeper) for part in (left, *parts)]
                return _comparison([_COMPARE[type(op)] for op in ops], terms)
            case ast.Call(func=ast.Name(id=name), args=[part], keywords=[]) if name in FUNCTIONS:
                function, term = FUNCTIONS[name], self._compile(part, deeper)
                return lambda values: function(term(values))
        said = ast.unparse(node)[:60]
        raise _Wrong(
            f"{said!r} isn't known here; conditions are made of fields, numbers, 'texts', [lists], == != < <= > >= in, "
            f"and or not, + - * / %, {', '.join(f'{name}()' for name in FUNCTIONS)}"
        )

    def _field(self, path: tuple[str, ...]) -> Term:
        self.names.add(path[0])
        if path[0] not in (*FIELDS, "json"):
            path = ("json", *path)

        def value(values: Values) -> Any:
            found: Any = values
            for name in path:
                if not isinstance(found, Mapping):
                    return None
                found = found.get(name)
            return found

        return value


class _Wrong(Exception):
    """What a condition has that the language has not."""


def _path(node: ast.expr) -> tuple[str, ...]:
    match node:
        case ast.Name(id=name):
            return (name,)
        case ast.Attribute(value=inner, attr=name):
            return (*_path(inner), name)
        case ast.Subscript(value=inner, slice=ast.Constant(value=str() as name)):
            return (*_path(inner), name)
    raise _Wrong(f"{ast.unparse(node)[:60]!r} is no field; write name, json.name or json['odd name']")


def _arithmetic(operation: Callable[[Any, Any], Any], left: Term, right: Term) -> Term:
    def value(values: Values) -> Any:
        one, two = left(values), right(values)
        if not isinstance(one, int | float) or not isinstance(two, int | float):  # texts could be made very long
            raise TypeError(f"arithmetic on {_kind(one)} and {_kind(two)}")
        return operation(one, two)

    return value


def _comparison(operations: list[Callable[[Any, Any], Any]], terms: list[Term]) -> Term:
    def value(values: Values) -> bool:
        left = terms[0](values)
        for operation, term in zip(operations, terms[1:], strict=True):
            right = term(values)
            try:
                true = operation(left, right)
            except TypeError:
                raise TypeError(f"{_kind(left)} can't be compared with {_kind(right)}") from None
            if not true:
                return False
            left = right
        return True

    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"lower() of {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "a missing field" if value is None else f"{type(value).__name__} {str(value)[:20]!r}"
