"""Verbs on a trained model: sample, understand, reconstruct, stats, score, report. `cli.py` has the rules of verbs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from raexla.runtime import Runtime
    from raexla.sampling.model import TextToImage

model_app = typer.Typer()

Model = Annotated[str, typer.Option("--model", help="A run directory, a model artifact, or `nano`.")]
RuntimeType = Annotated[
    Literal["auto", "eager", "xla"],
    typer.Option("--runtime", help="auto: xla where --devices is given or a TPU is there, else eager."),
]
Devices = Annotated[int | None, typer.Option("--devices", min=1, help="Virtual XLA devices on the CPU.")]
Dtype = Annotated[Literal["float32", "bfloat16"], typer.Option("--dtype", help="Compute type.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the noise.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Sampler steps.")]
Guidance = Annotated[float, typer.Option("--guidance", min=0, help="Scale; 1 is no guidance.")]
Interval = Annotated[
    tuple[float, float], typer.Option("--guidance-interval", metavar="LOW HIGH", help="Times t that are guided.")
]
Channels = Annotated[
    int | None, typer.Option("--guidance-channels", min=1, help="Guide the first so many latent channels only.")
]
Weak = Annotated[
    str | None,
    typer.Option(
        "--weak", metavar="MODEL", help="AutoGuidance: guide by this weaker model instead of by no condition."
    ),
]
Sampler = Annotated[str, typer.Option("--sampler", help="euler, heun or sde.")]
Grid = Annotated[
    Literal["shifted", "scale_rae", "rae"],
    typer.Option(
        "--grid", help="shifted: from exactly t = 1 to 0; the others as the papers' released code, euler only."
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="At a time; changes the speed, not the result.")]


def open_devices(runtime: str, devices: int | None, dtype: str) -> Runtime:
    """The runtime that the options `--runtime`, `--devices` and `--dtype` name."""
    from raexla.runtime import EagerRecipe, XlaRecipe, open_runtime
    from raexla.runtime.xla import has_tpu

    xla = runtime == "xla" or (runtime == "auto" and (devices is not None or has_tpu()))
    values: dict[str, Any] = {"devices": devices, "dtype": dtype}
    return open_runtime(XlaRecipe.model_validate(values) if xla else EagerRecipe.model_validate(values))


def open_model(name: str, runtime: str, devices: int | None, dtype: str) -> tuple[TextToImage, Runtime]:
    """The text-to-image model that `--model` names, placed on the devices that the other options name."""
    from raexla.sampling.model import find_model, load_model

    model = load_model(find_model(name))
    opened = open_devices(runtime, devices, dtype)
    model.place(opened)
    return model, opened


@model_app.command("sample")
def sample(
    model: Model,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="May be repeated.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="One prompt a line.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", metavar="NUMBERS", help="For class-conditional models: 3,5,7 or 0-9.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("samples"),
    each: Annotated[
        int, typer.Option("--per-prompt", "--per-class", min=1, help="Pictures of each prompt or class.")
    ] = 1,
    seed: Seed = 0,
    steps: Steps = 50,
    guidance: Guidance = 2.0,
    guidance_interval: Interval = (0.0, 1.0),
    guidance_channels: Channels = None,
    weak: Weak = None,
    sampler: Sampler = "euler",
    grid: Grid = "shifted",
    batch: Batch = 16,
    runtime: RuntimeType = "auto",
    devices: Devices = None,
    dtype: Dtype = "float32",
) -> None:
    """Draw pictures of prompts or classes: PNGs, a contact sheet and a record of how they came about."""
    from raexla.eval.progress import bars
    from raexla.recipe import UserError
    from raexla.sampling.draw import draw, may_replace, read_classes, read_prompts, sampling_recipe, summary
    from raexla.sampling.model import load_image_model

    asked = [text for text in prompt or [] if text.strip()] + (read_prompts(prompts) if prompts else [])
    numbers = read_classes(classes) if classes is not None else []
    if bool(asked) == bool(numbers):
        raise UserError(
            "--prompt and --classes: a model takes one of them, give one"
            if asked
            else "no prompt: give --prompt TEXT (may be repeated), --prompts FILE, or --classes for a class model"
        )
    may_replace(out)
    count = max(len(asked), len(numbers)) * each
    recipe = sampling_recipe(
        sampler, steps, guidance, guidance_interval, min(batch, count), channels=guidance_channels, weak=weak, grid=grid
    )
    opened = load_image_model(model, "class" if numbers else "prompt")
    devices_opened = open_devices(runtime, devices, dtype)
    opened.place(devices_opened)
    with bars() as ticks:
        sheet = draw(
            opened,
            devices_opened,
            recipe,
            numbers or asked,
            out,
            seed=seed,
            each=each,
            dtype=dtype,
            tick=ticks("pictures", count),
        )
    typer.echo(f"{count} pictures ({summary(recipe)}, seed {seed}); contact sheet: {sheet}")


@model_app.command("understand")
def understand(
    model: Model,
    image: Annotated[list[Path], typer.Option("--image", help="A picture; may be repeated.")],
    question: Annotated[list[str], typer.Option("--question", help="Asked about every picture; may be repeated.")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of an answer.")] = 48,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0: the likeliest token each time.")] = 0.0,
    seed: Seed = 0,
    batch: Batch = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runtime: RuntimeType = "auto",
    devices: Devices = None,
    dtype: Dtype = "float32",
) -> None:
    """Ask questions about pictures."""
    import json

    from raexla.sampling.answers import AnsweringRecipe
    from raexla.sampling.ask import ask

    opened, devices_opened = open_model(model, runtime, devices, dtype)
    count = len(image) * len(question)
    recipe = AnsweringRecipe(batch_images=min(batch, count), max_tokens=max_tokens, temperature=temperature)
    answers = ask(opened, devices_opened, recipe, image, question, seed)
    if as_json:
        typer.echo(json.dumps(answers, indent=1))
        return
    for answer in answers:
        about = f"{answer['image']}: {answer['question']} " if count > 1 else ""
        typer.echo(f"{about}{answer['answer']}")


@model_app.command("reconstruct")
def reconstruct(
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="PICTURES", help="Files, folders of pictures, folders of shards (or URLs)."),
    ],
    codec: Annotated[str, typer.Option("--codec", help="A run, an artifact, `nano`, or a YAML file with `codec:`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures and numbers.")] = Path("reconstruct"),
    encoder: Annotated[str | None, typer.Option("--encoder", help="Another path to the codec's encoder.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many of each source.")] = None,
    transform: Annotated[
        Literal["centre_crop", "squash"], typer.Option("--transform", help="How pictures become squares.")
    ] = "centre_crop",
    shown: Annotated[int, typer.Option("--shown", min=1, help="Pictures in the sheet.")] = 12,
    save: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Write each reconstruction as a PNG.")] = True,
    lpips: Annotated[
        Path | None, typer.Option("--lpips", metavar="FILE", help="Measure LPIPS with VGG16's weights in this file.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features", metavar="PATH", help="Measure rFID: Inception's weights (a file), or an encoder's folder."
        ),
    ] = None,
    batch: Batch = 64,
    runtime: RuntimeType = "auto",
    devices: Devices = None,
    dtype: Dtype = "float32",
) -> None:
    """Take pictures through a codec and back: reconstructions, a sheet to look at, PSNR, SSIM, LPIPS, rFID."""
    from rich.console import Console

    from raexla.eval.pictures import open_pictures
    from raexla.eval.progress import bars
    from raexla.eval.reconstruct import MEASURES
    from raexla.eval.reconstructions import RESULT, SHEET, ReconstructionRun, ReconstructRecipe
    from raexla.eval.table import reconstruction_table
    from raexla.sampling.codec import open_codec
    from raexla.sampling.draw import may_replace
    from raexla.sampling.named_codec import find_codec

    may_replace(out, RESULT)
    sources = open_pictures(pictures, limit)
    count = sum(source.count for source in sources)
    recipe = ReconstructRecipe(transform=transform, batch_images=min(batch, count), shown=shown, pictures=save)
    opened = open_codec(find_codec(codec, encoder), "--codec")
    devices_opened = open_devices(runtime, devices, dtype)
    devices_opened.place(opened.codec)
    measures = list(MEASURES)
    if lpips is not None:
        from raexla.eval.perceptual import lpips_measure

        measures.append(lpips_measure(str(lpips), opened.codec.output_size, devices_opened, recipe.batch_images))
    extractor = None
    if features is not None:
        from raexla.eval.features import open_features

        extractor = open_features(features, opened.codec.output_size, devices_opened, recipe.batch_images)
    with bars() as ticks:
        run = ReconstructionRun(opened, codec, devices_opened, recipe, dtype, measures, extractor)
        result = run.run(sources, out, ticks)
    Console().print(reconstruction_table(result))
    typer.echo(f"{out / SHEET}: what they look like; {out / RESULT}: every number with its protocol")


@model_app.command("stats")
def stats(
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="PICTURES", help="Files, folders of pictures, folders of shards (or URLs)."),
    ],
    codec: Annotated[
        str, typer.Option("--codec", help="A YAML file with `codec:` (a recipe will do), a run, an artifact, `nano`.")
    ],
    images: Annotated[int, typer.Option("--images", min=2, help="So many, evenly spread over all that there are.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the artifact.")] = Path("statistics"),
    per: Annotated[
        Literal["token", "channel"],
        typer.Option("--per", help="Of each channel at each token, or of each channel over all tokens."),
    ] = "token",
    encoder: Annotated[str | None, typer.Option("--encoder", help="Another path to the codec's encoder.")] = None,
    transform: Annotated[
        Literal["centre_crop", "squash"], typer.Option("--transform", help="How pictures become squares.")
    ] = "centre_crop",
    batch: Batch = 64,
    runtime: RuntimeType = "auto",
    devices: Devices = None,
    dtype: Dtype = "float32",
) -> None:
    """Measure mean and variance of a codec's latent, as the artifact that `codec.statistics` takes."""
    from raexla.eval.latent_statistics import StatisticsRecipe, StatisticsRun, may_write, open_unnormalised
    from raexla.eval.pictures import open_pictures
    from raexla.eval.progress import bars
    from raexla.sampling.named_codec import find_codec

    may_write(out)
    sources = open_pictures(pictures)
    recipe = StatisticsRecipe(images=images, per=per, transform=transform, batch_images=min(batch, images))
    opened = open_unnormalised(find_codec(codec, encoder, draws=False))
    devices_opened = open_devices(runtime, devices, dtype)
    devices_opened.place(opened.codec)
    with bars() as ticks:
        found = StatisticsRun(opened, codec, devices_opened, recipe, dtype).run(sources, out, ticks)
    typer.echo("\n".join(found.lines(out)))


@model_app.command("score")
def score(
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for scores.json and the pictures.")] = Path("score"),
    prompts_per_task: Annotated[int, typer.Option(min=1, max=150, help="Six tasks, and two held-out ones.")] = 100,
    questions: Annotated[int, typer.Option(min=0, help="Understanding questions; 0 leaves them out.")] = 600,
    seed: Seed = 0,
    steps: Steps = 25,
    guidance: Guidance = 2.0,
    guidance_interval: Interval = (0.0, 1.0),
    guidance_channels: Channels = None,
    weak: Weak = None,
    sampler: Sampler = "euler",
    batch: Batch = 60,
    runtime: RuntimeType = "auto",
    devices: Devices = None,
    dtype: Dtype = "float32",
) -> None:
    """Score a model on the nano benchmark, next to chance and to the ceilings."""
    from rich.console import Console

    from raexla.eval.nano import SCORES, NanoBenchmark, NanoBenchmarkRecipe
    from raexla.eval.progress import bars
    from raexla.eval.table import score_table, understanding_table
    from raexla.sampling.draw import may_replace, sampling_recipe

    may_replace(out, SCORES)
    recipe = NanoBenchmarkRecipe(
        prompts_per_task=prompts_per_task,
        questions=questions,
        sampling=sampling_recipe(
            sampler, steps, guidance, guidance_interval, batch, channels=guidance_channels, weak=weak
        ),
        seed=seed,
    )
    opened, devices_opened = open_model(model, runtime, devices, dtype)
    with bars() as ticks:
        scores = NanoBenchmark(opened, devices_opened, recipe, dtype, ticks).run(out)
    console = Console()
    console.print(score_table(scores))
    if (table := understanding_table(scores)) is not None:
        console.print(table)
    typer.echo(f"{out / SCORES}: every score with its protocol")


@model_app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of runs, samples and scores.")],
    out: Annotated[Path | None, typer.Option("--out", help="HTML file; FOLDER/report.html if left out.")] = None,
    title: Annotated[str, typer.Option("--title")] = "",
) -> None:
    """Write one self-contained HTML page about a folder of runs: curves, pictures, scores with their protocols."""
    from raexla.eval.report import write_report
    from raexla.files import local_only

    local_only(folder, "report")
    typer.echo(str(write_report(folder, out or folder / "report.html", title)))
