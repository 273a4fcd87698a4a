"""Hugging Face folders (or hub names), read with clear errors: a wrong class, a missing weight, a missing folder."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from raexla.models.published import PUBLISHED
from raexla.recipe import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ModelT = TypeVar("ModelT", bound="PreTrainedModel")


def read_config(path: str, model_types: dict[str, str], wanted: str) -> dict[str, Any]:
    """The `config.json` of a Hugging Face folder or hub name, as a dictionary.

    Args:
        path: a local folder or a hub name ("google/siglip2-so400m-patch14-224"); the hub isn't asked for a name whose
            configuration is known (`raexla.models.published`).
        model_types: the accepted values of `model_type`, each with the class that it stands for.
        wanted: what the caller is looking for, for the message ("encoder type siglip2").

    Raises:
        UserError: nothing can be read there, or it is another class of model.
    """
    from transformers import PretrainedConfig

    if path in PUBLISHED and not Path(path).is_dir():
        config = deepcopy(dict(PUBLISHED[path]))
    else:
        try:
            config, _ = PretrainedConfig.get_config_dict(path)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: no Hugging Face config.json can be read there ({reason})") from error
    found = config.get("model_type")
    if found not in model_types:
        name = ", ".join(config.get("architectures") or []) or "a model without an `architectures` entry"
        accepted = " or ".join(f"{cls} (model_type {kind!r})" for kind, cls in model_types.items())
        raise UserError(
            f"{path}: holds {name} (model_type {found!r}); {wanted} needs {accepted}: give another path or another type"
        )
    return config


def local_folder(path: str, files: Sequence[str]) -> Path:
    """The folder itself, or where the hub's cache has `files` of a hub name; they are fetched if it lacks them.

    Raises:
        UserError: neither a folder nor a hub name that can be read.
    """
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download  # only for hub names

    try:
        return Path(snapshot_download(path, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: neither a folder nor a readable hub name ({reason})") from error


def load_pretrained(model_class: type[ModelT], path: str, config: "PretrainedConfig") -> ModelT:
    """`from_pretrained` in float32 on the CPU that refuses to leave any parameter at its random initial value.

    Weights that the class does not use (a text tower, a pixel decoder) are ignored.

    Raises:
        UserError: no weights there, a parameter is missing from them, or one has another shape.
    """
    try:
        with _quiet():
            model, info = model_class.from_pretrained(
                path, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: the weights of {model_class.__name__} can't be read ({reason})") from error
    refuse_incomplete(path, model_class.__name__, info)
    return model


def load_state(model_class: type[ModelT], state: dict[str, torch.Tensor], config: "PretrainedConfig") -> ModelT:
    """A model from tensors under the file's key names, which transformers maps to its own module names.

    Raises:
        UserError: a parameter is missing from `state` or has another shape.
    """
    options: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": torch.float32}
    with _quiet():
        model, info = model_class.from_pretrained(None, config=config, state_dict=state, **options)
    refuse_incomplete("the given tensors", model_class.__name__, info)
    return model


def refuse_incomplete(path: str, name: str, info: dict[str, Any]) -> None:
    """Raise a `UserError` if transformers' loading report names missing or mis-shaped parameters."""
    problems = [f"{key} is missing" for key in sorted(info.get("missing_keys", ()))]
    for key, found, wanted in sorted(info.get("mismatched_keys", ())):
        problems.append(f"{key} has shape {list(found)}, the model needs {list(wanted)}")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"{path}: not the weights of this {name}: {shown}")


def saved_files(*parts: Any) -> dict[str, bytes]:
    """The files that `save_pretrained` of models and tokenizers writes, by name."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        for part in parts:
            part.save_pretrained(folder)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers' progress bars and its table of keys: `refuse_incomplete` says what matters."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
