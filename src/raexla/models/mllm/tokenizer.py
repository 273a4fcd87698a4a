"""The language model's tokenizer with the two image tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raexla.recipe import UserError

IMAGE_START, IMAGE_END = "<im_start>", "<im_end>"
"""Around image slots. Not to be confused with Qwen's `<|im_start|>` and `<|im_end|>` around turns."""


@dataclass(frozen=True)
class Tokenizer:
    """A transformers tokenizer that knows `<im_start>` and `<im_end>`.

    Attributes:
        tokenizer: the transformers object (`encode`, `decode`, `convert_tokens_to_ids`).
        size: number of ids, added ones included: embedding rows needed.
        added: ids that were not in the folder and whose embedding rows must be initialised.
        image_start, image_end: ids of the two image tokens.
    """

    tokenizer: Any
    size: int
    added: tuple[int, ...]
    image_start: int
    image_end: int


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a Hugging Face folder or hub name; the two image tokens are added where they are missing.

    `tokenizer.json` is taken as it stands: `AutoTokenizer` would put Qwen2's own splitting rules in its place wherever
    `config.json` says qwen2. It is used only for folders that have no `tokenizer.json` (vocabulary and merges apart).

    Raises:
        UserError: no tokenizer can be read there.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = Path(path)
    apart = folder.is_dir() and not (folder / "tokenizer.json").exists()
    tokenizer_class: Any = AutoTokenizer if apart else PreTrainedTokenizerFast
    try:
        tokenizer: Any = tokenizer_class.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no tokenizer can be read there ({str(error).splitlines()[0]})") from error
    known = tokenizer.get_vocab()
    missing = [token for token in (IMAGE_START, IMAGE_END) if token not in known]
    # extra_special_tokens would replace what the folder lists: add_tokens keeps it
    tokenizer.add_tokens(missing, special_tokens=True)
    start, end = tokenizer.convert_tokens_to_ids([IMAGE_START, IMAGE_END])
    size = max(tokenizer.get_vocab().values()) + 1
    return Tokenizer(tokenizer, size, tuple(tokenizer.convert_tokens_to_ids(missing)), start, end)
