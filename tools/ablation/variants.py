"""What is compared: variants of the nano decoder recipe, each a list of `--set` options, and the tables of them."""

from collections.abc import Sequence
from dataclasses import dataclass

RECIPE = "recipes/nano/decoder.yaml"
ENCODER = "recipes/nano/artifacts/encoder"

GRAM = 0.03
"""Weight of the Gram loss: it then weighs about what the perceptual loss does (0.05 and 0.03 of the total after ten
steps). The nano encoder's features are large: with a weight of 3, L1 was three times as high after ten steps."""
PAPER_ADVERSARIAL = 0.75
"""Paper 001's weight; the nano recipe's is 0.05."""
QUICK_CRITIC = 2.0e-3
"""Ten times the nano recipe's learning rate of the critic."""


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    name: str
    """As in file names."""
    title: str
    settings: tuple[str, ...] = ()
    """`--set` options over the recipe; `{data}` is the nano data's folder, `{made}` that of what the tool makes."""
    scored_on: tuple[str, ...] = ("scenes",)
    """Sets of held-out pictures."""
    noised: bool = True
    """Score on noised latents too."""
    as_it_is: bool = False
    """Keep the recipe's own length, phases and validation; others take the length of the command line and begin with
    the critic at 3/8 and with the adversarial loss at 1/2 of it, as paper 001 (epochs 6 and 8 of 16)."""


_NO_CRITIC = ("critic=null", "optim.critic=null", "losses.weights.adversarial=0")
_FULL = (f"losses.weights.gram={GRAM:g}",)
_LOUD = (f"losses.weights.adversarial={PAPER_ADVERSARIAL:g}", f"optim.critic.lr={QUICK_CRITIC:g}")
_ALL_SETS = ("scenes", "words", "text")
_SCENES = "{{name: scenes, path: {data}/pretrain, kind: image, weight: 7}}"


def _sources(*more: str) -> tuple[str, ...]:
    return ("data.sources=[" + ", ".join((_SCENES, *more)) + "]",)


_VARIANTS = (
    Variant(
        "start",
        "the ridge start (1 step)",
        ("losses.perceptual=null", "losses.weights.perceptual=0", *_NO_CRITIC, "train.steps=1"),
    ),
    Variant("l1", "L1", ("losses.perceptual=null", "losses.weights.perceptual=0", *_NO_CRITIC)),
    Variant("perceptual", "L1 + perceptual", _NO_CRITIC),
    Variant("gram", "L1 + perceptual + Gram", (*_FULL, *_NO_CRITIC)),
    Variant("gan", "L1 + perceptual + Gram + GAN", _FULL),
    Variant("gan-loud", "the same, GAN weight 0.75, critic's LR x 10", (*_FULL, *_LOUD)),
    Variant("tau-0", "tau 0", (*_FULL, "noise.tau=0")),
    Variant("tau-0.8", "tau 0.8", (*_FULL, "noise.tau=0.8")),
    Variant("scenes", "scenes", _sources(), _ALL_SETS, noised=False),
    Variant(
        "scenes-words",
        "scenes + nano words, 7:1",
        _sources("{{name: words, path: {data}/words, kind: image, weight: 1}}"),
        _ALL_SETS,
        noised=False,
    ),
    Variant(
        "scenes-text",
        "scenes + rendered text, 7:1",
        _sources("{{name: text, path: {made}/text, kind: image, weight: 1}}"),
        _ALL_SETS,
        noised=False,
    ),
    Variant("recipe", "the recipe", as_it_is=True),
    Variant("recipe-loud", "GAN weight 0.75, critic's LR x 10", _LOUD, as_it_is=True),
)
VARIANTS = {variant.name: variant for variant in _VARIANTS}


@dataclass(frozen=True)
class Table:
    """Variants that are compared with each other."""

    name: str
    title: str
    rows: tuple[str, ...]
    titles: tuple[tuple[str, str], ...] = ()
    """(variant, what it is called in this table), where that is not its own title."""

    def title_of(self, variant: str) -> str:
        """What a row is called."""
        return dict(self.titles).get(variant, VARIANTS[variant].title)


_TABLES = (
    Table("losses", "Losses, noise tau 0.2", ("start", "l1", "perceptual", "gram", "gan", "gan-loud")),
    Table("noise", "Noise, all losses", ("start", "tau-0", "gan", "tau-0.8"), (("gan", "tau 0.2"),)),
    Table("data", "Data", ("scenes", "scenes-words", "scenes-text")),
    Table("gan", "The recipe through its adversarial phase", ("recipe", "recipe-loud")),
)
TABLES = {table.name: table for table in _TABLES}


@dataclass(frozen=True)
class Cell:
    """One training run."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.variant.name}-seed{self.seed}"


def cells(what: Sequence[str], seeds: int) -> list[Cell]:
    """The runs that some tables need, each once; all variants of seed 0 first, so that a stop leaves whole tables."""
    names = dict.fromkeys(row for table in what for row in TABLES[table].rows)
    return [Cell(VARIANTS[name], seed) for seed in range(seeds) for name in names]


def settings(cell: Cell, steps: int, data: str, made: str) -> list[str]:
    """All `--set` options of a cell, but for where it is run and on what devices.

    Args:
        steps: the length of those that don't keep the recipe's.
    """
    common = [f"run.seed={cell.seed}", "obs.tensorboard=false"]
    if cell.variant.as_it_is:
        common += ["eval.every_steps=20", "eval.images=1000", f"eval.features={ENCODER}", "obs.log_every_steps=5"]
        common += [f"eval.source.path={data}/validation"]
    else:
        common += [f"train.steps={steps}", f"critic_from_step={3 * steps // 8}", "eval.every_steps=null"]
        common += [f"adversarial_from_step={steps // 2}"]
    own = [setting.format(data=data, made=made) for setting in cell.variant.settings]
    if not any(setting.startswith("data.sources=") for setting in own):
        common += [f"data.sources=[{{name: scenes, path: {data}/decoder, kind: image}}]"]
    return common + own
