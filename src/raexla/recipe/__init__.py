"""Recipes: YAML -> frozen, typed, strict objects.

A recipe type subclasses `Recipe` and stands beside the code that it configures; this package knows none of them. The
caller passes the table of stages (`{"pretrain": PretrainRecipe, ...}`); the file's `stage:` key chooses from it.
Reading is in four steps, one file each: `source` (YAML with origins), `merge` (extends and --set), `load` (validate),
`explain` (pydantic's errors in the words of the file). All problems of a recipe are reported at once.
"""

from raexla.recipe.base import Recipe
from raexla.recipe.errors import BadDataError, ProcessLost, RaexlaError, StopRequested, UserError
from raexla.recipe.load import load, load_key, load_text
from raexla.recipe.reference import ArtifactReference
from raexla.recipe.show import differences, digest, schema, show

__all__ = [
    "ArtifactReference",
    "BadDataError",
    "ProcessLost",
    "RaexlaError",
    "Recipe",
    "StopRequested",
    "UserError",
    "differences",
    "digest",
    "load",
    "load_key",
    "load_text",
    "schema",
    "show",
]
