"""Losses of each source of the data: on the device sums and counts of constant shape, on the host means."""

from collections.abc import Mapping, Sequence

from torch import Tensor

ROWS = "rows"


def split(rows: Mapping[str, Tensor], source: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Sums over the rows of each source, `loss/NAME/SOURCE`, and their number, `rows/SOURCE`; scalars.

    Args:
        rows: a loss of each row [B], by name.
        source: int [B], each row's place in `names`. Each source has its mask: no shape depends on a batch's rows.
    """
    out: dict[str, Tensor] = {}
    for number, name in enumerate(names):
        mask = (source == number).float()
        out[f"{ROWS}/{name}"] = mask.sum()
        out.update({f"loss/{loss}/{name}": (values.detach() * mask).sum() for loss, values in rows.items()})
    return out


def by_source(values: Mapping[str, float]) -> dict[str, float]:
    """Sums of a whole step -> means; a source of which the step had no row is left out."""
    counts = {name.removeprefix(f"{ROWS}/"): count for name, count in values.items() if name.startswith(f"{ROWS}/")}
    out: dict[str, float] = {}
    for name, value in values.items():
        source = name.rpartition("/")[2] if name.count("/") == 2 and name.startswith("loss/") else None
        if source is None or source not in counts:
            out[name] = value
        elif counts[source]:
            out[name] = value / counts[source]
    return out
