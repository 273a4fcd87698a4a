"""The official critic's key names (DinoDisc of RAE) against this project's: `{}` stands for the head's number."""

KEYS: dict[str, str] = {
    f"heads.{{}}.{theirs}.{leaf}": f"heads.{{}}.{ours}.{our_leaf}"
    for theirs, ours, leaves in (
        ("0.0", "enter.conv", "conv"),
        ("0.1", "enter.norm", "norm"),
        ("1.fn.0", "mix.conv", "conv"),
        ("1.fn.1", "mix.norm", "norm"),
        ("2", "out", "conv"),
    )
    for leaf, our_leaf in (
        (("weight_orig", "weight"), ("bias", "bias"), ("weight_u", "u"), ("weight_v", "v"))
        if leaves == "conv"
        else (("weight", "weight"), ("bias", "bias"))
    )
}


def official_names(heads: int) -> dict[str, str]:
    """{official key: our path} of all heads."""
    return {theirs.format(i): ours.format(i) for i in range(heads) for theirs, ours in KEYS.items()}
