"""`raexla ckpt ...`: released checkpoints in and out, one's own listed, checked, copied. See `cli.py` for the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ckpt_app = typer.Typer(
    help="Checkpoints: list, verify, copy, remove, show; released weights in and out.", no_args_is_help=True
)

Encoder = Annotated[str | None, typer.Option("--encoder", metavar="PATH", help="The encoder: folder or hub name.")]
EncoderType = Annotated[
    Literal["siglip2", "dinov2", "webssl", "mae"] | None,
    typer.Option("--encoder-type", help="Where its config.json fits two: dinov2 or webssl."),
]
Statistics = Annotated[
    str | None,
    typer.Option("--statistics", metavar="ARTIFACT", help="The latent's statistics; `none`: there are none."),
]


@ckpt_app.command("import")
def ckpt_import(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A released file or folder.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The artifact's folder.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check it; write nothing.")] = False,
    kind: Annotated[
        Literal["model", "decoder", "statistics", "dit", "dino"] | None,
        typer.Option("--kind", help="What SOURCE is; recognised by its files and keys if not given."),
    ] = None,
    encoder: Encoder = None,
    encoder_type: EncoderType = None,
    decoder: Annotated[
        str | None, typer.Option("--decoder", metavar="ARTIFACT", help="The decoder that a model or DiT draws with.")
    ] = None,
    statistics: Statistics = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="A config.json that does not stand beside it.")
    ] = None,
    state: Annotated[
        Literal["ema", "model"] | None,
        typer.Option("--state", help="Which weights of a training checkpoint; the EMA's if there are any."),
    ] = None,
    size: Annotated[
        Literal["B", "L", "XL"] | None, typer.Option("--size", help="A decoder's size, if it has no config.json.")
    ] = None,
    heads: Annotated[int | None, typer.Option("--heads", min=1, help="A DiT's heads, if the file can't tell.")] = None,
    head_heads: Annotated[
        int | None, typer.Option("--head-heads", min=1, help="Heads of its DDT head, if the file can't tell.")
    ] = None,
    head_depth: Annotated[
        int | None, typer.Option("--head-depth", min=1, help="Blocks of its DDT head, if the file can't tell.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=1, help="A DiT's classes; if not given, its labels but the last.")
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", min=1, help="Tokens of a sequence, instead of what config.json says.")
    ] = None,
) -> None:
    """Turn released weights into an artifact, if every key is accounted for; else name each key that isn't (exit 2)."""
    from raexla.formats import ImportOptions, import_released
    from raexla.recipe import UserError

    if (out is None) != check:
        raise UserError(
            "give --out DIR, or --check to write nothing" if out is None else "--check writes nothing: no --out"
        )
    options = ImportOptions(
        encoder=encoder,
        encoder_type=encoder_type,
        decoder=decoder,
        statistics=statistics,
        config=config,
        state=state,
        size=size,
        heads=heads,
        head_heads=head_heads,
        head_depth=head_depth,
        classes=classes,
        length=length,
    )
    typer.echo("\n".join(import_released(source, out, options, kind)))


@ckpt_app.command("export")
def ckpt_export(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="An artifact, or a run directory that holds one.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write.")],
    form: Annotated[
        Literal["hf", "diffusers"],
        typer.Option("--format", help="hf: the official layout. diffusers: AutoencoderRAE, of a decoder."),
    ] = "hf",
    encoder: Encoder = None,
    encoder_type: EncoderType = None,
    statistics: Statistics = None,
    shard_gib: Annotated[float, typer.Option("--shard-gib", min=0, help="Largest file of weights, in GiB.")] = 5.0,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Of these weights, for the model card: mit, apache-2.0 ...")
    ] = None,
) -> None:
    """Write an artifact as a folder that the official code (or diffusers) reads, with a model card."""
    from raexla.formats import ExportOptions, export_artifact

    options = ExportOptions(encoder, encoder_type, statistics, shard_gib, licence)
    typer.echo("\n".join(export_artifact(source, out, form, options)))


@ckpt_app.command("show")
def ckpt_show(
    path: Annotated[str, typer.Argument(metavar="PATH", help="An artifact, a checkpoint, or a run directory.")],
    tensors: Annotated[
        bool, typer.Option("--tensors", help="A checkpoint's tensors too: names, shapes, types.")
    ] = False,
) -> None:
    """Say what an artifact or checkpoint is and what it was made for; its files' hashes are checked."""
    from raexla.formats import show_artifact

    typer.echo("\n".join(show_artifact(path, tensors)))


@ckpt_app.command("ls")
def ckpt_ls(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run or its `checkpoints` folder; any fsspec URL.")],
) -> None:
    """List a run's checkpoints: step, time, size, and why each is kept."""
    from raexla.checkpoint.verbs import ls

    typer.echo("\n".join(ls(run)))


@ckpt_app.command("verify")
def ckpt_verify(
    places: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Checkpoints, or runs with all of theirs; any fsspec URL.")
    ],
) -> None:
    """Read every byte and compare every hash; exit code 3 if a file is not what was written, and its name."""
    from raexla.checkpoint.verbs import verify

    typer.echo("\n".join(verify(places)))


@ckpt_app.command("cp")
def ckpt_cp(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A checkpoint, or a run for its newest; any fsspec URL.")
    ],
    target: Annotated[str, typer.Argument(metavar="FOLDER", help="The run or folder to copy to; any fsspec URL.")],
) -> None:
    """Copy a checkpoint to FOLDER/step-XXXXXXXX, complete or not at all; every hash is compared."""
    from raexla.checkpoint.verbs import cp

    typer.echo("\n".join(cp(source, target)))


@ckpt_app.command("rm")
def ckpt_rm(
    places: Annotated[list[str], typer.Argument(metavar="CHECKPOINT", help="Checkpoints; any fsspec URL.")],
    force: Annotated[bool, typer.Option("--force", help="Even if none is left that a run could go on from.")] = False,
) -> None:
    """Remove checkpoints, damaged ones too; the last complete one of a run only with --force."""
    from raexla.checkpoint.verbs import rm

    typer.echo("\n".join(rm(places, force)))
