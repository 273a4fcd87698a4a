"""`raexla shards ...`: make, pack, index, check and look at WebDataset shards. See `cli.py` for the rules of verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

shards_app = typer.Typer(help="Make, pack, index, check and look at WebDataset shards.", no_args_is_help=True)

Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="Folder or URL of shards (gs://bucket/folder).")]

Out = Annotated[str, typer.Option("--out", help="Folder or URL for the shards.")]
Processes = Annotated[
    int | None, typer.Option(min=1, help="That share the work; as many as there are cores (at most 16) if not given.")
]
SamplesPerShard = Annotated[int, typer.Option(min=1)]
BytesPerShard = Annotated[str, typer.Option(metavar="SIZE", help="A shard ends here too: 200MB, 1GiB, ...")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace shards made from something else.")]


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
    out: Out,
    kind: Annotated[Literal["caption", "conversation", "image"], typer.Option(help="What a sample is.")] = "caption",
    samples_per_shard: SamplesPerShard = 1000,
    bytes_per_shard: BytesPerShard = "512MiB",
    processes: Processes = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a folder of pictures and captions into shards with an index; what can't be used is counted and named.

    Goes on after a stop; a complete folder is left as it is.
    """
    from raexla.data.shards import pack, parse_bytes
    from raexla.eval.progress import bars

    with bars() as progress:
        report = pack(
            folder,
            out,
            kind=kind,
            samples_per_shard=samples_per_shard,
            bytes_per_shard=parse_bytes("--bytes-per-shard", bytes_per_shard),
            processes=_count(processes),
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo("\n".join([f"{out}:", *report.lines()]))


@shards_app.command("index")
def shards_index(
    folder: Folder,
    full: Annotated[bool, typer.Option("--full", help="Read shards again that have not changed.")] = False,
    processes: Processes = None,
) -> None:
    """Read every new or changed shard once and write `index.json` and `index.members` beside them.

    Goes on after a stop. Of a list (x.jsonl): where its rows stand, as x.jsonl.lines.
    """
    from raexla.data.layouts import index_lines
    from raexla.data.shards import index
    from raexla.eval.progress import bars

    if folder.endswith(".jsonl"):
        index_lines(folder, say=typer.echo)
        return
    with bars() as progress:
        made = index(
            folder,
            full=full,
            processes=_count(processes),
            say=lambda line: typer.echo(line, err=True),
            progress=progress,
        )
    known = len(made.shards) - made.examined
    typer.echo(f"{made.samples} samples in {len(made.shards)} shards, {made.bytes} bytes, {made.manifest_hash}")
    if known:
        typer.echo(f"{made.examined} shards read, {known} unchanged (--full reads them too)")


@shards_app.command("verify")
def shards_verify(
    folder: Folder,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every picture too.")] = False,
    processes: Processes = None,
) -> None:
    """Compare every byte of every shard with the index; exit code 3 if they differ. Goes on after a stop."""
    from raexla.data.shards import verify
    from raexla.eval.progress import bars
    from raexla.recipe import BadDataError

    with bars() as progress:
        report = verify(folder, decode=decode, processes=_count(processes), progress=progress)
    for line in report.warnings:
        typer.echo(line, err=True)
    if report.problems:
        raise BadDataError("\n  ".join([f"{folder}: {len(report.problems)} problems", *report.problems]))
    known = f" ({report.known} shards found so before a stop)" if report.known else ""
    typer.echo(f"{report.samples} samples in {report.shards} shards, {report.bytes} bytes: as the index says{known}")


@shards_app.command("stats")
def shards_stats(
    folder: Folder,
    limit: Annotated[int, typer.Option(min=1, help="Samples to look at, spread evenly.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object, for programs.")] = False,
    processes: Processes = None,
) -> None:
    """Tell what is in the shards: totals, formats, sizes, caption lengths, what would be refused."""
    import json

    from raexla.data.shards import stats, stats_lines
    from raexla.eval.progress import bars

    with bars() as progress:
        found = stats(folder, limit=limit, processes=_count(processes), progress=progress)
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(stats_lines(found)))


@shards_app.command("peek")
def shards_peek(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("peek.png"),
    count: Annotated[int, typer.Option(min=1)] = 48,
    columns: Annotated[int, typer.Option(min=1)] = 8,
    cell: Annotated[int, typer.Option(min=48, max=1024, help="Width of a picture's card in pixels.")] = 176,
    seed: Annotated[int, typer.Option(min=0, help="Another one for other samples.")] = 0,
) -> None:
    """Draw a contact sheet of samples with their captions."""
    from raexla.data.shards import peek
    from raexla.eval.progress import bars

    out.parent.mkdir(parents=True, exist_ok=True)
    with bars() as progress:
        sheet = peek(folder, count=count, columns=columns, seed=seed, cell=cell, progress=progress)
    sheet.save(out)
    typer.echo(str(out))


@shards_app.command("reshard")
def shards_reshard(
    folder: Folder,
    out: Out,
    resize: Annotated[int | None, typer.Option(metavar="PIXELS", min=1, help="Resize pictures as --how says.")] = None,
    how: Annotated[
        Literal["shorter", "squash", "crop"],
        typer.Option(help="The shorter side, never enlarged; both sides; or a square from the middle."),
    ] = "shorter",
    jpeg: Annotated[
        int | None, typer.Option("--jpeg", metavar="QUALITY", min=1, max=100, help="Write pictures as JPEG.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Write pictures as PNG.")] = False,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="Keep only these: 'width >= 256 and similarity > 0.28'.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keep only what it names: a line each, KEY or SHARD/KEY.")
    ] = None,
    drop: Annotated[
        str | None, typer.Option(metavar="FILE", help="Leave out what it names; a run's quarantine.jsonl will do.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Take the first of every so many samples.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop at so many samples.")] = None,
    samples_per_shard: SamplesPerShard = 1000,
    bytes_per_shard: BytesPerShard = "512MiB",
    processes: Processes = None,
    overwrite: Overwrite = False,
) -> None:
    """Write shards anew: smaller pictures, other shard sizes, or a part of the samples.

    Keys stay, untouched members are copied byte for byte, what is left out is counted and named, `reshard.json` records
    where it all came from.

    Goes on after a stop; a complete folder is left as it is.
    """
    from raexla.data.shards import ReshardRecipe, parse_bytes, reshard
    from raexla.eval.progress import bars

    recipe = ReshardRecipe(
        resize=resize,
        how=how,
        jpeg=jpeg,
        png=png,
        where=where,
        keep=keep,
        drop=drop,
        every=every,
        limit=limit,
        samples_per_shard=samples_per_shard,
        bytes_per_shard=parse_bytes("--bytes-per-shard", bytes_per_shard),
    )
    with bars() as progress:
        report = reshard(folder, out, recipe, processes=_count(processes), overwrite=overwrite, progress=progress)
    typer.echo("\n".join([f"{out}: of {report.seen} samples of {folder}:", *report.lines()]))


def _count(processes: int | None) -> int:
    from raexla.data.shards import usual_processes

    return usual_processes() if processes is None else processes
