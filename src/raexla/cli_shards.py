"""`raexla shards ...`: make, pack, index, check and look at WebDataset shards. See `cli.py` for the rules of verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

shards_app = typer.Typer(help="Make, pack, index, check and look at WebDataset shards.", no_args_is_help=True)

Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="Folder or URL of shards (gs://bucket/folder).")]


@shards_app.command("nano")
def shards_nano(
    out: Annotated[Path, typer.Option("--out", help="A folder is made in it for each split.")] = Path("data/nano"),
    split: Annotated[list[str] | None, typer.Option("--split", help="Only this split; may be repeated.")] = None,
    count: Annotated[
        list[str] | None, typer.Option("--count", metavar="SPLIT=N", help="Samples of a split; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    processes: Annotated[int, typer.Option(min=1, help="That make samples.")] = 2,
) -> None:
    """Write the nano data set: captioned scenes, questions, words, texts. Complete folders are left as they are."""
    from raexla.data.nano.write import parse_counts, write_nano
    from raexla.eval.progress import bars
    from raexla.recipe import UserError

    counts = parse_counts(count or [])
    if unknown := set(split or []) - set(counts):
        raise UserError(f"--split: there is no split {min(unknown)!r}; choose from {', '.join(counts)}")
    counts = {name: number for name, number in counts.items() if not split or name in split}
    with bars() as ticks:
        tick = ticks("nano samples", sum(counts.values()))
        lines = write_nano(out, counts, seed=seed, processes=processes, tick=tick)
    typer.echo("\n".join(lines))


@shards_app.command("text")
def shards_text(
    out: Annotated[str, typer.Option("--out", help="Folder or URL for the shards.")],
    count: Annotated[int, typer.Option("--count", min=1, help="Samples.")] = 10_000,
    size: Annotated[int, typer.Option("--size", min=32, max=4096, help="Side of the pictures in pixels.")] = 256,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another one for a held-out set.")] = 0,
    fonts: Annotated[
        list[str] | None,
        typer.Option("--fonts", metavar="FOLDER", help="ttf, otf; may be repeated. Left out: the system's fonts."),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option("--texts", metavar="FILE", help="One text a line. Left out: made-up phrases.")
    ] = None,
    jpeg: Annotated[
        int | None, typer.Option("--jpeg", metavar="QUALITY", min=1, max=95, help="JPEG instead of PNG.")
    ] = None,
    samples_per_shard: Annotated[int, typer.Option(min=1)] = 1000,
    processes: Annotated[int, typer.Option(min=1, help="That make samples; the result is the same.")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards made from something else.")] = False,
) -> None:
    """Render words and sentences in many fonts, sizes, colours, on many backgrounds; goes on after a stop."""
    from raexla.data.text import TextRecipe, find_fonts, write_text
    from raexla.eval.progress import bars

    recipe = TextRecipe(
        count=count,
        size=size,
        seed=seed,
        texts=str(texts) if texts else None,
        jpeg_quality=jpeg,
        samples_per_shard=samples_per_shard,
    )
    found = find_fonts(fonts or ())
    with bars() as ticks:
        tick = ticks("rendered text", count)
        lines = write_text(out, recipe, found, processes=processes, overwrite=overwrite, tick=tick)
    typer.echo("\n".join(lines))


@shards_app.command("pack")
def shards_pack(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Pictures with captions: x.png + x.txt, or a list.")],
    out: Annotated[str, typer.Option("--out", help="Folder or URL for the shards.")],
    kind: Annotated[Literal["caption", "conversation", "image"], typer.Option(help="What a sample is.")] = "caption",
    samples_per_shard: Annotated[int, typer.Option(min=1)] = 1000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards that are there.")] = False,
) -> None:
    """Turn a folder of pictures and captions into shards with an index; what can't be used is counted and named."""
    from raexla.data.shards import pack

    report = pack(folder, out, kind=kind, samples_per_shard=samples_per_shard, overwrite=overwrite)
    typer.echo("\n".join(report.lines()))


@shards_app.command("index")
def shards_index(folder: Folder) -> None:
    """Read every shard once and write `index.json` and `index.members` beside them."""
    from raexla.data.shards import index

    made = index(folder, say=lambda line: typer.echo(line, err=True))
    typer.echo(f"{made.samples} samples in {len(made.shards)} shards, {made.bytes} bytes, {made.manifest_hash}")


@shards_app.command("verify")
def shards_verify(
    folder: Folder, decode: Annotated[bool, typer.Option("--decode", help="Decode every picture too.")] = False
) -> None:
    """Compare every byte of every shard with the index; exit code 3 if they differ."""
    from raexla.data.shards import verify
    from raexla.recipe import BadDataError

    report = verify(folder, decode=decode)
    if report.problems:
        raise BadDataError("\n  ".join([f"{folder}: {len(report.problems)} problems", *report.problems]))
    typer.echo(f"{report.samples} samples in {report.shards} shards, {report.bytes} bytes: as the index says")


@shards_app.command("stats")
def shards_stats(
    folder: Folder,
    limit: Annotated[int, typer.Option(min=1, help="Samples to look at, spread evenly.")] = 10_000,
) -> None:
    """Print what is in the shards as JSON: totals, formats, sizes, caption lengths, what would be refused."""
    import json

    from raexla.data.shards import stats

    typer.echo(json.dumps(stats(folder, limit=limit), indent=2))


@shards_app.command("peek")
def shards_peek(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("peek.png"),
    count: Annotated[int, typer.Option(min=1)] = 48,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw a contact sheet of samples with their captions."""
    from raexla.data.shards import peek

    out.parent.mkdir(parents=True, exist_ok=True)
    peek(folder, count=count, seed=seed).save(out)
    typer.echo(str(out))
