"""Reading a fixture: the safetensors, the JSON beside it, its kind and its config."""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from raexla.nn.weights import read_tensors
from raexla.recipe import UserError

PARTS = ("weight", "weight_guide", "weight_dino", "input", "output", "grad", "derived")
"""What the names of a fixture's tensors begin with."""

COMPARED = ("output", "grad", "derived")
"""The parts that hold what is to be reproduced."""


class Config:
    """A fixture's config, which remembers what has been asked for: what nobody asked for is reported, not ignored."""

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self._values, self._path = values, path
        self._asked: set[str] = set()
        self._inner: list[Config] = []

    def has(self, key: str) -> bool:
        """Whether the field is there."""
        return key in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """The field, or `default`."""
        self._asked.add(key)
        return self._values.get(key, default)

    def need(self, key: str) -> Any:
        """The field. Raises a `UserError` if it is not there."""
        if key not in self._values:
            raise UserError(f"the config has no {self._path}{key}, which this kind needs")
        return self.get(key)

    def only(self, key: str, *supported: Any) -> Any:
        """The field, which must be one of `supported` if it is there; the first of them is what it is if not."""
        value = self.get(key, supported[0])
        if value not in supported:
            wanted = " or ".join(repr(item) for item in supported)
            raise UserError(f"the config has {self._path}{key}: {value!r}; here it can only be {wanted}")
        return value

    def agree(self, key: str, ours: Any) -> None:
        """Refuse a field that says otherwise than what follows from the rest of the fixture; it may be absent."""
        value = self.get(key, ours)
        if value != ours:
            raise UserError(f"the config has {self._path}{key}: {value!r}, but the rest of the fixture gives {ours!r}")

    def note(self, *keys: str) -> None:
        """Fields that describe the fixture and change nothing."""
        self._asked.update(keys)

    def inside(self, key: str) -> "Config":
        """The map under a field, as a config of its own."""
        inner = Config(self.need(key), f"{self._path}{key}.")
        self._inner.append(inner)
        return inner

    def values(self, *, without: Collection[str] = ()) -> dict[str, Any]:
        """All fields as they are (they count as asked for), but those named."""
        self._asked.update(self._values)
        return {key: value for key, value in self._values.items() if key not in without}

    def unasked(self) -> list[str]:
        """Dotted names of the fields that nobody asked for."""
        own = [self._path + key for key in self._values if key not in self._asked]
        return own + [name for inner in self._inner for name in inner.unasked()]


@dataclass(frozen=True)
class Case:
    """One fixture."""

    name: str
    kind: str
    config: Config
    tensors: dict[str, Tensor]
    listed: frozenset[str]
    """Names of the tensors that the JSON lists; empty if it lists none."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix/`, without the prefix."""
        start = prefix + "/"
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}

    def shape(self, name: str) -> Sequence[int]:
        """Shape of a tensor. Raises a `UserError` if the fixture has none of this name."""
        if name not in self.tensors:
            raise UserError(f"the fixture has no {name}, which this kind needs")
        return tuple(self.tensors[name].shape)


def read_case(path: str, kinds: Collection[str]) -> Case:
    """Read `path` (.safetensors) and the JSON beside it.

    Raises:
        UserError: a file is missing or can't be read, or its kind is not one of `kinds`.
    """
    place = Path(path)
    if place.suffix != ".safetensors":
        raise UserError(f"{path}: a fixture is a .safetensors file (with a .json of the same name beside it)")
    tensors = read_tensors(path, "a parity fixture")
    beside = place.with_suffix(".json")
    if not beside.is_file():
        raise UserError(f"{beside}: no such file; it stands beside {place.name} and says which module and sizes")
    try:
        described = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{beside}: is no JSON ({error})") from error
    if not isinstance(described, dict) or not isinstance(described.get("config"), dict):
        raise UserError(f"{beside}: has no map `config`, which says which sizes the fixture has")
    name = str(described.get("case", place.stem))
    foreign = sorted({key.partition("/")[0] for key in tensors} - set(PARTS))
    if foreign:
        raise UserError(f"{path}: tensors under {', '.join(foreign)}: a fixture has only {', '.join(PARTS)}")
    listed = frozenset(key for key in described.get("tensors") or () if isinstance(key, str))
    return Case(name, kind_of(name, kinds), Config(described["config"]), tensors, listed)


def kind_of(name: str, kinds: Collection[str]) -> str:
    """The kind of a case: its name, without a trailing `_b`, `_c`, ...

    Raises:
        UserError: it is none of `kinds`.
    """
    kind = name if name in kinds else re.sub(r"_[a-z]$", "", name)
    if kind not in kinds:
        raise UserError(f"{name}: is of no known kind; known are {', '.join(sorted(kinds))}")
    return kind
