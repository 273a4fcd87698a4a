"""How a recipe refers to what another stage made."""

from typing import Annotated

from pydantic import Field

from raexla.recipe.base import Recipe


class ArtifactReference(Recipe):
    """What an earlier stage made: a directory, and its hash if it must be that very one."""

    path: str
    """The artifact's directory."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Hash of its `artifact.json`, refused if it differs; not checked if not given."""
