"""Writes data as the official Scale-RAE loader reads it: tars of JSON and picture, and a `wds_manifest.json`.

Independent of the package's readers and writers: tar, JSON and Pillow only. The tars are as people's tools leave them:
folder entries, times and owners, pax headers, pictures that stand apart from their JSON or have another name.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def drawn(request: str) -> list[dict[str, str]]:
    """The turns of a generation sample."""
    return [{"from": "human", "value": request}, {"from": "gpt", "value": "Here you go:\n<image>"}]


def asked(turns: Iterable[tuple[str, str]], *, mark: bool = True) -> list[dict[str, str]]:
    """The turns of questions about a picture."""
    said = []
    for number, (question, answer) in enumerate(turns):
        said.append({"from": "human", "value": f"<image>\n{question}" if mark and number == 0 else question})
        said.append({"from": "gpt", "value": answer})
    return said


def jpeg(pixels: Any) -> bytes:
    """Quality 95 without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def write_tars(
    folder: Path, name: str, samples: Sequence[tuple[list[dict[str, str]], bytes | None]], *, per_tar: int = 24
) -> list[str]:
    """(turns, picture or None) of each sample -> `name_001.tar`, ...; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in range(0, len(samples), per_tar):
        path = folder / f"{name}_{first // per_tar + 1:03d}.tar"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            entry = tarfile.TarInfo("pictures")
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
            late = []
            for number, (turns, picture) in enumerate(samples[first : first + per_tar], first):
                stem = f"sample_{number:06d}"
                plain: dict[str, Any] = {"conversations": turns, "metadata": {"number": number}}
                if picture is not None:
                    # most pictures stand beside their JSON; some have another name, some stand at the tar's end
                    plain["image_filename"] = f"pictures/{number}.JPG" if number % 5 == 3 else f"{stem}.jpg"
                    if number % 5 == 4:
                        late.append((plain["image_filename"], picture))
                    else:
                        _add(tar, plain["image_filename"], picture)
                _add(tar, f"{stem}.json", json.dumps(plain, ensure_ascii=False, indent=1).encode())
            for name_in_tar, picture in late:
                _add(tar, name_in_tar, picture)
        paths.append(str(path))
    return paths


def write_manifest(path: Path, tars: Sequence[str], samples: int) -> str:
    """The list that the official recipes give as their data path."""
    plain = {
        "dataset_name": "my_training_data",
        "tars": list(tars),
        "samples_per_tar_assumption": 10000,
        "estimated_total_samples": samples,
    }
    path.write_text(json.dumps(plain, indent=2))
    return str(path)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.uid, entry.uname = len(data), 1_700_000_000.25, 1000, "someone"
    tar.addfile(entry, io.BytesIO(data))
