"""Which text-to-image model a recipe trains: its own, or the one that it starts from, which need not exist yet."""

from pathlib import Path

from raexla.recipe import UserError, load
from raexla.sampling.model import NANO, TextToImageRecipe, find_model, read_description
from raexla.train.finetune import FinetuneRecipe
from raexla.train.pretrain import PretrainRecipe
from raexla.train.stages import STAGES


def model_of(recipe: PretrainRecipe | FinetuneRecipe, name: str = "init") -> TextToImageRecipe:
    """The model's recipe, as it is trained.

    A finetuning recipe takes it from its artifact where that is there, else from the recipe that makes it.

    Args:
        name: of the recipe's key, for messages.

    Raises:
        UserError: neither the artifact nor a recipe that makes one.
    """
    if isinstance(recipe, PretrainRecipe):
        return TextToImageRecipe(**{key: getattr(recipe, key) for key in TextToImageRecipe.model_fields})
    found = _beginning(recipe, name)
    length = recipe.chat_length or found.chat.length
    return found.model_copy(update={"chat": found.chat.model_copy(update={"length": length})})


def _beginning(recipe: FinetuneRecipe, name: str) -> TextToImageRecipe:
    init = recipe.init
    if Path(init.path).is_dir() or init.path == NANO:
        return read_description(find_model(init.path, f"{name}.path"), recipe.codec, f"{name}.path")
    if init.recipe is None:
        raise UserError(
            f"{name}.path: {init.path} does not exist yet; to plan without it, name the recipe that makes it: "
            "--set init.recipe=recipes/pretrain/..."
        )
    maker = load(init.recipe, STAGES)
    if not isinstance(maker, (PretrainRecipe, FinetuneRecipe)):
        stage = getattr(maker, "stage", "?")
        raise UserError(f"{name}.recipe: {init.recipe} is of stage {stage}: wanted pretrain or finetune")
    found = model_of(maker, f"{init.recipe}: init")
    return found if recipe.codec is None else found.model_copy(update={"codec": recipe.codec})
