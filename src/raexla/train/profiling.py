"""Some steps of a run under the profiler: `train.profile`, read by `raexla profile`."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from raexla.obs.profile import STEPS
from raexla.recipe import Recipe
from raexla.runtime import Runtime


class ProfileRecipe(Recipe):
    """The steps that are traced, both ends included; `10-12` and `10` are short for them."""

    first: Annotated[int, Field(ge=1)]
    last: Annotated[int, Field(ge=1)]

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | str):
            return value
        first, _, last = str(value).partition("-")
        if not (first.strip().isdigit() and (last or first).strip().isdigit()):
            raise ValueError(f"{value!r}: give the first and the last step, like 10-12")
        return {"first": int(first), "last": int(last or first)}

    @model_validator(mode="after")
    def _in_order(self) -> "ProfileRecipe":
        if self.last < self.first:
            raise ValueError(f"the last step, {self.last}, comes before the first, {self.first}")
        return self


class StepProfiler:
    """Traces steps as the loop comes to them, once; process 0 does, its own devices.

    Args:
        pause: waits for the devices and takes what happens inside out of the steps' time.
    """

    def __init__(
        self,
        recipe: ProfileRecipe | None,
        folder: Path,
        runtime: Runtime,
        pause: Callable[[], AbstractContextManager[None]],
        say: Callable[[str], None],
    ) -> None:
        self._recipe = recipe if runtime.process_index == 0 else None
        self._folder, self._runtime, self._pause, self._say = folder, runtime, pause, say
        self._open = ExitStack()
        self._began: int | None = None

    def before(self, step: int) -> None:
        """Begin, if `step` (the first one is 1) is the first to be traced, or a run that resumes stands behind it."""
        wanted = self._recipe
        if wanted is None or self._began is not None or not wanted.first <= step <= wanted.last:
            return
        self._began = step
        with self._pause():
            self._open.enter_context(self._runtime.profile(self._place(step, wanted.last)))

    def after(self, step: int) -> None:
        """End, if `step` is the last to be traced."""
        if self._recipe is not None and self._began is not None and step == self._recipe.last:
            self._end(step)

    def close(self) -> None:
        """End what a run that stops has begun; of no use then, but the profiler must not run on."""
        self._open.close()

    def _end(self, last: int) -> None:
        assert self._began is not None
        place = self._place(self._began, last)
        with self._pause():
            self._open.close()
        (place / STEPS).write_text(json.dumps({"first": self._began, "last": last}) + "\n", encoding="utf-8")
        self._recipe = None
        self._say(f"  steps {self._began} to {last} are traced: raexla profile {place}")

    def _place(self, first: int, last: int) -> Path:
        return self._folder / f"steps-{first:08d}-{last:08d}"
