"""The command line: each verb parses, loads a recipe, and calls one function of a package below.

To add a verb: a function with `@app.command()`, its work imported *inside* it (so that `raexla --help` stays quick and
opens no device), its recipe loaded by `load_recipe`. Errors are not handled in verbs: `main` is the one boundary that
turns exceptions into a line on stderr and an exit code (0 done, 1 a bug, 2 the user's error, 3 bad data,
75 saved after a stop request, 76 another process is gone, 77 ended by the watchdog, 130 interrupted). Verbs on trained
models are in `cli_model.py`, those on shards in `cli_shards.py`, those on checkpoints in `cli_ckpt.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from raexla.cli_ckpt import ckpt_app
from raexla.cli_model import model_app
from raexla.cli_shards import shards_app

if TYPE_CHECKING:
    from raexla.recipe import Recipe

app = typer.Typer(
    help="Train and run text-to-image models on RAE latents with PyTorch/XLA. One recipe (a YAML file) is one run.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")
app.add_typer(shards_app, name="shards")
app.add_typer(ckpt_app, name="ckpt")
app.add_typer(model_app)  # its verbs stand at the top

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, for example recipes/nano/pretrain.yaml.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set train.steps=100. May be repeated."),
]


def stage_types() -> Mapping[str, type[Recipe]]:
    """The recipe type of every stage; imported late, because it brings the models with it."""
    from raexla.train.stages import STAGES

    return STAGES


def load_recipe(path: Path, overrides: Sequence[str] | None) -> Recipe:
    """The recipe of a verb's RECIPE argument and `--set` options."""
    from raexla.recipe import load

    return load(path, stage_types, overrides or ())


def _print_version(value: bool) -> None:
    if value:
        from raexla import __version__

        typer.echo(f"raexla {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself; each acts by its callback."""


@app.command()
def train(
    recipe: RecipeFile,
    overrides: SetOption = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Run directory or URL; the recipe's run.dir if not given.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, removing the run that is there.")] = False,
) -> None:
    """Train what a recipe describes; a run directory with a checkpoint is gone on with."""
    import json

    from raexla.train.stop import StopRequest

    with StopRequest() as stop:  # listens before the seconds that the imports below take
        from raexla.train.stages import train_recipe

        extra = [f"run.dir={json.dumps(out)}"] if out is not None else []  # text, whatever YAML would make of it
        train_recipe(load_recipe(recipe, [*(overrides or ()), *extra]), fresh, stop)


@app.command()
def latents(
    recipe: RecipeFile,
    out: Annotated[str, typer.Option("--out", metavar="URL", help="Folder; each source gets one of its name in it.")],
    overrides: SetOption = None,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME", help="Only this one, eval's too; may be repeated. Else all of data."),
    ] = None,
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32"], typer.Option("--dtype", help="How a latent is stored.")
    ] = "float16",
    keep_pixels: Annotated[bool, typer.Option("--keep-pixels", help="The pictures stay beside their latents.")] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures at a time on each device.")] = 64,
    processes: Annotated[
        int | None, typer.Option(min=1, help="On each host, that decode; as many as there are cores if not given.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace latents made from something else.")] = False,
) -> None:
    """Encode the pictures of a training recipe's sources once: shards of latents, from which it trains without encoder.

    Goes on after a stop; a complete folder is left as it is.
    """
    from raexla.data.shards import usual_processes
    from raexla.eval.progress import bars
    from raexla.train.latents.run import Storing
    from raexla.train.latents.verb import store_latents

    loaded = load_recipe(recipe, overrides)
    storing = Storing(
        dtype=dtype,
        keep_pixels=keep_pixels,
        batch_images=batch,
        processes=usual_processes() if processes is None else processes,
        overwrite=overwrite,
    )
    with bars() as ticks:
        stored = store_latents(loaded, out, source or (), storing, ticks)
    for one in stored:
        typer.echo("\n".join(one.lines()))


@app.command()
def plan(
    recipe: RecipeFile,
    topology: Annotated[str, typer.Option("--topology", metavar="CHIP:SHAPE", help="v5p:4x4x4, v6e:8x8, v4:4x4x4.")],
    overrides: SetOption = None,
    slices: Annotated[int, typer.Option("--slices", min=1, help="Equal slices; mesh.data runs between them.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Closed forms only, no compiler: seconds.")] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try meshes, remat, accumulation in closed form; rank what fits.")
    ] = False,
    batches: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, metavar="N", help="With --sweep: a global batch to try. May be repeated."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="With --sweep: rows of the table.")] = 12,
    phase: Annotated[str | None, typer.Option("--phase", help="Of a decoder's training; else the heaviest.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write the plan as a page.")] = None,
    hlo: Annotated[Path | None, typer.Option("--hlo", metavar="FILE", help="Keep the optimised program.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Values for a program.")] = False,
) -> None:
    """Say whether a recipe fits a TPU slice, and how fast it would train: estimates that have met no TPU.

    Without --quick its training step is compiled by the TPU compiler, ahead of time (minutes; needs the extra `plan`).
    """
    import json

    if sweep:
        from raexla.plan.sweep import sweep_recipe

        tried = sweep_recipe(load_recipe(recipe, overrides), str(recipe), topology, slices, batches or (), phase)
        typer.echo(json.dumps(tried.as_dict(), indent=2) if as_json else "\n".join(tried.lines(top)))
        return
    from raexla.plan.text import lines
    from raexla.plan.verb import plan_recipe

    found = plan_recipe(load_recipe(recipe, overrides), str(recipe), topology, slices, quick, phase, hlo, html)
    typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else "\n".join(lines(found)))


@app.command()
def profile(
    place: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="A run (its newest trace is taken), a folder, or a trace.")
    ],
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Operations that are shown.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Values for a program, all operations.")] = False,
) -> None:
    """Print what a trace's time went into: kinds of operations, then the top ones.

    A run traces its steps 10 to 12 with `raexla train RECIPE --set train.profile=10-12`.
    """
    import json

    from raexla.files import local_only
    from raexla.obs.profile import profile as read
    from raexla.obs.profile import profile_lines

    local_only(place, "RUN")
    found = read(Path(place))
    typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else "\n".join(profile_lines(found, top)))


@recipe_app.command("show")
def recipe_show(recipe: RecipeFile, overrides: SetOption = None) -> None:
    """Print the resolved recipe: parents merged, overrides applied, defaults filled in."""
    from raexla.recipe import show

    typer.echo(show(load_recipe(recipe, overrides)), nl=False)


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON schema of recipe files, for editors (all stages)."""
    import json

    from raexla.recipe import schema

    typer.echo(json.dumps(schema(stage_types()), indent=2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; the only place that catches what a verb raises."""
    try:
        code = app(args=arguments, prog_name="raexla", standalone_mode=False)
        sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        return _say("interrupted", 130)
    except typer.TyperException as error:
        return _usage_error(error)
    except BrokenPipeError:
        # the reader (`| head`) has what it wanted; keep the interpreter's last flush from failing too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _failure(error)
    if code == 130:  # how typer returns Ctrl-C
        return _say("interrupted", 130)
    return code if isinstance(code, int) else 0


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def _usage_error(error: typer.TyperException) -> int:
    """A command line that does not parse: one line, and where to read on."""
    message = error.format_message().rstrip(".")
    if not message:  # a group without a verb, whose help has been printed
        return 2
    context = getattr(error, "ctx", None)
    return _say(f"error: {message} (see {context.command_path if context else 'raexla'} --help)", 2)


def _failure(error: Exception) -> int:
    """What a verb raised: a line for those that mean something to the user, else a traceback."""
    from raexla.recipe.errors import RaexlaError, StopRequested

    if isinstance(error, StopRequested):
        return _say(str(error) or "stopped as requested and saved; the same command resumes", error.exit_code)
    if isinstance(error, RaexlaError):
        return _say(f"error: {error}", error.exit_code)
    import traceback

    traceback.print_exception(error)
    return _say("error: this is a bug in raexla; please report it with the lines above and the command", 1)


if __name__ == "__main__":
    sys.exit(main())
