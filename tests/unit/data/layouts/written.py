"""One set of samples, good and bad, written in every layout by plain means."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Files = dict[str, bytes]
Write = Callable[[Path, Files], dict[str, Any]]


def write_tar(path: Path, files: Files | list[tuple[str, bytes]]) -> Path:
    """A tar of (name, bytes) in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_files(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Loose files below a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def webdataset(folder: Path, files: Files) -> dict[str, Any]:
    """Tars of two parts."""
    names = sorted(files)
    middle = names[len(names) // 2].partition(".")[0]  # between two samples
    first = [(name, files[name]) for name in names if name.partition(".")[0] < middle]
    write_tar(folder / "000.tar", first)
    write_tar(folder / "001.tar", [(name, files[name]) for name in names if (name, files[name]) not in first])
    return {"path": str(folder)}


def loose(folder: Path, files: Files) -> dict[str, Any]:
    """The files as they are, in two folders."""
    return {"path": str(write_files(folder, {f"{'ab'[name > 'm']}/{name}": data for name, data in files.items()}))}


def jsonl(folder: Path, files: Files) -> dict[str, Any]:
    """A row for each sample. What isn't UTF-8 or JSON stands in its row as it is."""
    rows = []
    for key in sorted({name.partition(".")[0] for name in files}):
        mine = {name.partition(".")[2]: data for name, data in files.items() if name.partition(".")[0] == key}
        row = mine.get("json", b"{}")
        parts = [f'"id": "{key}"'.encode()]
        for extension, data in mine.items():
            if extension == "txt":
                parts.append(b'"caption": "' + data.replace(b"\n", b"\\n") + b'"')
            elif extension != "json":
                write_files(folder, {f"pictures/{key}.{extension}": data})
                parts.append(f'"image": "pictures/{key}.{extension}"'.encode())
        inner = row.strip().removeprefix(b"{").removesuffix(b"}") if row.strip().endswith(b"}") else row.strip()
        rows.append(b"{" + b", ".join([*parts, *([inner] if inner else [])]) + b"}")
    (folder / "list.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    return {"path": str(folder)}


def scale_rae(folder: Path, files: Files) -> dict[str, Any]:
    """Official tars: the picture named in the JSON, which holds the caption too."""
    members: Files = {}
    for key in sorted({name.partition(".")[0] for name in files}):
        mine = {name.partition(".")[2]: data for name, data in files.items() if name.partition(".")[0] == key}
        inner = mine.get("json", b"{}").strip()
        parts = [inner.removeprefix(b"{").removesuffix(b"}")] if inner.endswith(b"}") else [inner]
        for extension, data in mine.items():
            if extension == "txt":
                parts.append(b'"captions": "' + data.replace(b"\n", b"\\n") + b'"')
            elif extension != "json":
                parts.append(f'"image_filename": "pictures/{key}.{extension}"'.encode())
                members[f"pictures/{key}.{extension}"] = data
        members[f"{key}.json"] = b"{" + b", ".join(part for part in parts if part) + b"}"
    write_tar(folder / "tars/a.tar", members)
    manifest = {"dataset_name": "x", "tars": ["tars/a.tar"]}
    return {"path": str(write_files(folder, {"wds_manifest.json": json.dumps(manifest)}) / "wds_manifest.json")}


LAYOUTS: dict[str, Write] = {"webdataset": webdataset, "scale_rae": scale_rae, "jsonl": jsonl, "folder": loose}
