"""The nano benchmark: GenEval's six tasks on prompts that no training caption holds, next to chance and ceilings.

What is scored, each a line of `scores.json` with its protocol: pictures of the prompts with guidance and without,
pictures of held-out colour-shape pairs, and the two ceilings: true renders of the prompts, and these after a round trip
through the codec. Chance, beside every score, is the share of pictures that fit another prompt of the set. Pictures are
kept beside the numbers.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from raexla.checkpoint.files import directory_when_complete, write_json
from raexla.data.nano.samples import NanoPrompt, prompts
from raexla.eval.reconstruct import Reconstructor, mean_of, measure
from raexla.eval.scenes import TaskScore, evaluate, score
from raexla.eval.understanding import Question, judge, normalise, questions
from raexla.flow.guidance import NoGuidance
from raexla.recipe import Recipe, UserError
from raexla.runtime import Runtime
from raexla.sampling.answers import Answerer, AnsweringRecipe
from raexla.sampling.draw import describe_model, may_replace
from raexla.sampling.images import ImageSampler, SamplingRecipe
from raexla.sampling.model import TextToImage
from raexla.sampling.sheet import save_png, save_sheet, to_image, to_pixels
from raexla.sampling.weak import open_weak

SCORES = "scores.json"
_SHOWN_PER_TASK = 8

Ticks = Callable[[str, int], Callable[[int], Any]]
"""(what, how many) -> a function that is told how many more are done."""


class NanoBenchmarkRecipe(Recipe):
    """How a model is scored."""

    prompts_per_task: Annotated[int, Field(ge=1, le=150)] = 100
    """Prompts of each of the six tasks, and of each of the two held-out ones."""
    questions: Annotated[int, Field(ge=0)] = 600
    """Understanding questions; 0 leaves understanding out."""
    sampling: SamplingRecipe
    """With guidance; the same without it is scored too."""
    without_guidance: bool = True
    """Score pictures without guidance as well."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the noise. Prompts and questions are the benchmark's own."""


#: Prompts are made with this seed; questions with this one, which no training set uses.
PROMPT_SEED, QUESTION_SEED = 0, 600_613


def prompt_set_hash(chosen: Sequence[NanoPrompt]) -> str:
    """What two scores must share to be compared: sha256 over captions and specs."""
    text = json.dumps([[item.caption, item.spec] for item in chosen], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _no_ticks(what: str, count: int) -> Callable[[int], Any]:
    del what, count
    return lambda done: None


class NanoBenchmark:
    """Scores one placed model."""

    def __init__(
        self,
        model: TextToImage,
        runtime: Runtime,
        recipe: NanoBenchmarkRecipe,
        dtype: str = "float32",
        ticks: Ticks = _no_ticks,
    ) -> None:
        if model.codec.output_size != 32:
            raise UserError(f"the nano benchmark has pictures of 32 pixels, this model draws {model.codec.output_size}")
        self.model, self.runtime, self.recipe, self.ticks = model, runtime, recipe, ticks
        self._facts = describe_model(model, runtime, dtype)

    def run(self, out: Path) -> dict[str, Any]:
        """Score everything; writes `out/scores.json` and the pictures, and returns the former's content.

        Raises:
            UserError: `out` holds something else than a former result.
        """
        may_replace(out, SCORES)
        began = time.time()
        recipe = self.recipe
        usual = prompts(recipe.prompts_per_task, PROMPT_SEED)
        held_out = prompts(recipe.prompts_per_task, PROMPT_SEED, held_out=True)
        with directory_when_complete(out) as folder:
            scores = [self._drawn("guided", usual, recipe.sampling, folder)]
            if recipe.without_guidance and not isinstance(recipe.sampling.guidance, NoGuidance):
                plain = recipe.sampling.model_copy(update={"guidance": NoGuidance()})
                scores.append(self._drawn("unguided", usual, plain, folder))
            scores.append(self._drawn("held_out", held_out, recipe.sampling, folder))
            scores += self._ceilings(usual, folder)
            result: dict[str, Any] = {
                "format": 1,
                "benchmark": "nano",
                "model": self._facts,
                "scores": scores,
                "understanding": self._understanding(folder) if recipe.questions else None,
                "seconds": round(time.time() - began, 1),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            write_json(folder / SCORES, result)
        return result

    def _line(
        self, name: str, chosen: Sequence[NanoPrompt], images: np.ndarray, protocol: Mapping[str, Any], folder: Path
    ) -> dict[str, Any]:
        pixels = to_pixels(images)
        specs = [item.spec for item in chosen]
        (folder / name).mkdir()
        for item, image in zip(chosen, images, strict=True):
            save_png(folder / name / f"{item.key}.png", image)
        shown = _some_of_each(chosen)
        marks = ["yes" if score(pixels[i], specs[i]) else "no" for i in shown]
        captions = [f"{mark}: {chosen[i].caption}" for i, mark in zip(shown, marks, strict=True)]
        save_sheet(folder / f"{name}.png", images[shown], captions, title=name, columns=_SHOWN_PER_TASK, cell=120)
        examples = [
            {"image": f"{name}/{chosen[i].key}.png", "caption": chosen[i].caption, "task": specs[i]["task"]}
            | {"right": mark == "yes"}
            for i, mark in zip(shown, marks, strict=True)
        ]
        return {
            "name": name,
            "tasks": as_json(evaluate(list(pixels), specs)),
            "examples": examples,
            "protocol": {
                "prompt_set_sha256": prompt_set_hash(chosen),
                "samples": len(chosen),
                "resolution": self.model.codec.output_size,
                "scorer": "raexla.eval.scenes, exact; 95% Wilson intervals; chance over 10 shuffles of the pictures",
                **protocol,
            },
        }

    def _drawn(self, name: str, chosen: Sequence[NanoPrompt], sampling: SamplingRecipe, folder: Path) -> dict[str, Any]:
        weak = open_weak(sampling, self.model, self.runtime)
        sampler = ImageSampler(self.model, self.runtime, sampling, weak=weak)
        images = sampler.images([p.caption for p in chosen], self.recipe.seed, self.ticks(f"draw {name}", len(chosen)))
        protocol = {
            "sampler": sampling.sampler.model_dump(mode="json"),
            "guidance": sampling.guidance.model_dump(mode="json"),
            "seed": self.recipe.seed,
            "batch_images": sampler.batch,
            "model_digest": self.model.digest,
            "weak_digest": weak.digest if weak else None,
            "dtype": self._facts["dtype"],
        }
        return self._line(name, chosen, images, protocol, folder)

    def _ceilings(self, chosen: Sequence[NanoPrompt], folder: Path) -> list[dict[str, Any]]:
        real = np.stack([item.image for item in chosen])
        again = Reconstructor(self.model.codec, self.runtime)(real, self.ticks("reconstruct", len(chosen)))
        lines = [
            self._line("real", chosen, to_image(real), {"images": "true renders of the prompts"}, folder),
            self._line(
                "reconstructions",
                chosen,
                to_image(again),
                {"images": "true renders through the codec", "decoder_digest": self.model.opened.decoder},
                folder,
            ),
        ]
        found = measure(real, again)
        lines[1]["psnr_db"] = mean_of(found["psnr"]).mean
        lines[1]["ssim"] = mean_of(found["ssim"]).mean
        return lines

    def _understanding(self, folder: Path) -> dict[str, Any]:
        asked = questions(self.recipe.questions, QUESTION_SEED)
        answering = AnsweringRecipe(batch_images=self.recipe.sampling.batch_images, max_tokens=16)
        images = to_image(np.stack([question.image for question in asked]))
        answerer = Answerer(self.model, self.runtime, answering)
        said = answerer.answers(images, [q.question for q in asked], tick=self.ticks("answer", len(asked)))
        (folder / "understanding").mkdir()
        examples = []
        for question, answer in _varied(list(zip(asked, said, strict=True))):
            name = f"understanding/{question.key}.png"
            save_png(folder / name, to_image(question.image))
            right = normalise(answer) == normalise(question.answer)
            examples.append(
                {"image": name, "question": question.question, "answer": answer, "truth": question.answer}
                | {"kind": question.kind, "right": right}
            )
        text = json.dumps([[question.question, question.answer] for question in asked])
        return {
            "tasks": as_json(judge(asked, said)),
            "examples": examples,
            "protocol": {
                "question_set_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "samples": len(asked),
                "judge": "exact match, lower case; chance pairs questions with answers to others of their kind",
                "decoding": answering.model_dump(mode="json"),
                "resolution": self.model.codec.output_size,
                "model_digest": self.model.digest,
                "dtype": self._facts["dtype"],
            },
        }


def as_json(scores: Mapping[str, TaskScore]) -> dict[str, dict[str, float]]:
    """Plain values, rounded to what the sample supports."""
    return {
        task: {key: value if isinstance(value, int) else round(value, 4) for key, value in asdict(item).items()}
        for task, item in scores.items()
    }


def _some_of_each(chosen: Sequence[NanoPrompt]) -> list[int]:
    """Places of the first prompts of each task."""
    seen: dict[str, list[int]] = {}
    for place, item in enumerate(chosen):
        seen.setdefault(item.spec["task"], []).append(place)
    return [place for places in seen.values() for place in places[:_SHOWN_PER_TASK]]


def _varied(answered: Sequence[tuple[Question, str]], each: int = 2) -> list[tuple[Question, str]]:
    """The first `each` of every kind."""
    seen: dict[str, list[tuple[Question, str]]] = {}
    for pair in answered:
        seen.setdefault(pair[0].kind, []).append(pair)
    return [pair for kind in sorted(seen) for pair in seen[kind][:each]]
