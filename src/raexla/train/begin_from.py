"""A new run that takes tensors from another run's checkpoint, and says which."""

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

from raexla.checkpoint import StartRecipe
from raexla.checkpoint.verbs import open_newest
from raexla.runtime import Runtime
from raexla.train.directory import RunDirectory


def begin_from(recipe: StartRecipe, state: Mapping[str, Tensor], runtime: Runtime, run: RunDirectory) -> list[str]:
    """Take what `recipe` names into `state`, and note all names in `run.json`; lines for a person.

    Raises:
        UserError: no checkpoint there, damaged, or what is asked for isn't in it in these shapes.
    """
    checkpoint = open_newest(recipe.path)
    loaded = checkpoint.restore(state, runtime, recipe.take, recipe.leave)
    if runtime.process_index == 0:
        names = {"taken": loaded.taken, "left": loaded.left, "unused": loaded.unused}
        run.note({"start": {"checkpoint": checkpoint.url, "step": checkpoint.step, **names}})
    return [
        f"took {len(loaded.taken)} tensors of step {checkpoint.step} from {checkpoint.url}: {_groups(loaded.taken)}",
        f"  left as this run made them: {_groups(loaded.left)}",
        f"  not used of the checkpoint: {_groups(loaded.unused)}",
    ]


def _groups(names: Iterable[str]) -> str:
    """`model/decoder (120), optim/decoder (240)`."""
    counted = Counter(_group(name) for name in names)
    return ", ".join(f"{group} ({count})" for group, count in counted.items()) or "nothing"


def _group(name: str) -> str:
    kind, _, rest = name.partition("/")
    return f"{kind}/{rest.partition('/')[0].partition('.')[0]}"
