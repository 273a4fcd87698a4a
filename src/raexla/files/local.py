"""What is read from a local disk only says so when it is given a URL."""

import os
import re

from raexla.recipe import UserError

_SCHEME = re.compile(r"([a-z][a-z0-9+]+):/+(?=[^/])")
_COPY = {
    "gs": "gcloud storage cp -r {url} DIR",
    "s3": "aws s3 cp --recursive {url} DIR",
}


def local_only(path: str | os.PathLike[str], where: str) -> None:
    """Refuse a URL, also one that has been through `pathlib`, which leaves one slash of two.

    Args:
        where: what the path was given to, for the message.

    Raises:
        UserError: with a command that copies it here.
    """
    found = _SCHEME.match(os.fspath(path))
    if found is None or found[1] == "file":
        return
    url = f"{found[1]}://{os.fspath(path)[found.end() :]}"
    how = _COPY.get(found[1], "fsspec's `get(..., recursive=True)`").format(url=url)
    raise UserError(f"{where}: {url} is not on this machine, and this reads local files only; copy it first: {how}")
