"""What our recipes know and the released layouts have no key for, under one key of its own in an exported config.json.

Official readers pass over it; with it an import gives back the very recipe that was exported.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from raexla.recipe import Recipe, UserError

KEY = "raexla"
RecipeT = TypeVar("RecipeT", bound=Recipe)


def write_own(**recipes: Recipe) -> dict[str, Any]:
    """The entry of an exported `config.json`."""
    return {KEY: {name: recipe.model_dump(mode="json", exclude_none=True) for name, recipe in recipes.items()}}


def read_own(config: Mapping[str, Any] | None, name: str, kind: type[RecipeT]) -> RecipeT | None:
    """A recipe that an export of ours left in a `config.json`; None for anybody else's.

    Raises:
        UserError: it is there and is no such recipe.
    """
    entry = (config or {}).get(KEY)
    value = entry.get(name) if isinstance(entry, dict) else None
    if value is None:
        return None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, (KEY, name, *problem["loc"])))
        raise UserError(f"config.json: {place}: {problem['msg']}") from error
