"""`raexla latents RECIPE`: the latents that a training recipe would make at every step, made once."""

from collections.abc import Sequence

from raexla.data import SourceRecipe
from raexla.recipe import Recipe, UserError
from raexla.runtime import MeshRecipe, open_runtime
from raexla.sampling.named_codec import find_codec
from raexla.train.finetune import FinetuneRecipe
from raexla.train.latents.identity import open_before_statistics, refuse_draws
from raexla.train.latents.run import LatentsRun, Stored, Storing, Ticks, refuse_nested
from raexla.train.pretrain import PretrainRecipe


def store_latents(recipe: Recipe, out: str, names: Sequence[str], storing: Storing, ticks: Ticks) -> list[Stored]:
    """Make the latents of a recipe's sources into `OUT/NAME` each, on the recipe's devices, all of them side by side.

    Args:
        recipe: of the stage pretrain or finetune; its codec, transform and sources count.
        out: path or fsspec URL. names: of sources, those of `eval` among them; all of `data.sources` if none is given.

    Returns:
        What became of each source, on the first process; nothing on the others.

    Raises:
        UserError: another stage; a name that no source has; what the parts raise.
        BadDataError: too many pictures can't be used.
    """
    if not isinstance(recipe, (PretrainRecipe, FinetuneRecipe)):
        stage = getattr(recipe, "stage", "?")
        raise UserError(f"stage {stage} doesn't train on latents; give a recipe of the stage pretrain or finetune")
    refuse_draws(recipe.transform)
    chosen = _chosen(recipe, names)
    refuse_nested(chosen, out)
    if recipe.codec is not None:
        codec = recipe.codec
    else:
        assert isinstance(recipe, FinetuneRecipe)
        codec = find_codec(recipe.init.path, where="init.path", draws=False)
    opened = open_before_statistics(codec)
    runtime = open_runtime(recipe.runtime, MeshRecipe(data=None, fsdp=1, tensor=1))
    runtime.place(opened.codec)
    run = LatentsRun(opened, recipe.transform, runtime, storing, recipe.data.loader.max_bad_fraction)
    stored = [run.run(source, f"{out.rstrip('/')}/{source.name}", ticks) for source in chosen]
    return stored if runtime.process_index == 0 else []


def _chosen(recipe: PretrainRecipe | FinetuneRecipe, names: Sequence[str]) -> list[SourceRecipe]:
    known = {source.name: source for source in (*recipe.eval.sources, *recipe.data.sources)}
    if not names:
        return [source for source in recipe.data.sources if source.kind != "text"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"--source {unknown[0]}: the recipe has no such source; it has {', '.join(sorted(known))}")
    return [known[name] for name in dict.fromkeys(names)]
