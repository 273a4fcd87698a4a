"""`open_source` for the tests of layouts."""

from collections.abc import Callable

import pytest

from raexla.data.source import Source, SourceRecipe


@pytest.fixture
def open_source() -> Callable[..., Source]:
    """open_source(name=..., path=..., ...) -> Source."""
    return lambda say=None, **values: Source(SourceRecipe.model_validate({"name": "s", **values}), say=say)
