"""What `raexla understand` does: picture files and questions in, answers out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raexla.data import Refused, SquashRecipe, build_transform, decode_image
from raexla.recipe import UserError
from raexla.runtime import Runtime
from raexla.sampling.answers import Answerer, AnsweringRecipe
from raexla.sampling.model import TextToImage
from raexla.sampling.sheet import to_image


def read_image(path: Path, size: int) -> np.ndarray:
    """A picture file of any mode as float32 [3, size, size] in [0, 1], squashed to the square.

    Raises:
        UserError: no such file, or one that can't be decoded.
    """
    try:
        pixels = decode_image(path.read_bytes())
    except OSError as error:
        raise UserError(f"--image: {path} can't be read: {error.strerror}") from error
    except Refused as refused:
        raise UserError(f"--image: {path}: {refused}") from None
    squash = build_transform(SquashRecipe(size=size))
    return to_image(squash(pixels, np.random.default_rng(0)))


def ask(
    model: TextToImage,
    runtime: Runtime,
    recipe: AnsweringRecipe,
    images: Sequence[Path],
    questions: Sequence[str],
    seed: int = 0,
) -> list[dict[str, str]]:
    """Every question about every picture: `{"image", "question", "answer"}`, pictures first.

    Raises:
        UserError: a picture that can't be read.
        QuestionError: a question that is too long.
    """
    pairs = [(path, question) for path in images for question in questions]
    pixels = {path: read_image(path, model.codec.image_size) for path in images}
    arrays = np.stack([pixels[path] for path, _ in pairs])
    answers = Answerer(model, runtime, recipe).answers(arrays, [question for _, question in pairs], seed)
    return [
        {"image": str(path), "question": question, "answer": answer}
        for (path, question), answer in zip(pairs, answers, strict=True)
    ]
