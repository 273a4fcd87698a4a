"""What stands in a picture: words, signs, numbers, sentences, paragraphs, made without any download."""

from collections.abc import Callable, Sequence

import numpy as np

Rng = np.random.Generator


def _words(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(separator))


NOUNS = _words(
    "anchor apple autumn bakery balcony bicycle blanket bridge butterfly candle castle ceiling chapter cloud "
    "coast compass copper corner cottage cousin crystal curtain daughter desert diamond doctor dragon drawer "
    "eagle engine evening factory feather festival forest fountain garden giraffe glacier glove grandmother "
    "guitar hammer harbour honey horizon hotel island jacket jewel journey kettle kitchen ladder lantern letter "
    "library lighthouse lizard magnet market meadow mirror mountain museum needle newspaper night notebook ocean "
    "orchard orchestra oxygen painter parrot pepper piano pillow pirate planet pocket pumpkin puzzle quarter "
    "queen rabbit railway rainbow recipe ribbon river rocket saddle sailor school shadow shoulder signal silver "
    "sister snowflake soldier spider spring station stranger street sugar summer sunrise teacher theatre thunder "
    "ticket tiger tower traveller umbrella valley velvet village violin volcano wallet waterfall weather whistle "
    "window winter wizard yacht zebra"
)
ADJECTIVES = _words(
    "ancient awkward beautiful bitter blue brave bright broken calm careful clever cold crooked curious dark deep "
    "distant dusty early electric empty equal famous fragile fresh frozen gentle golden green happy heavy hidden "
    "hollow honest huge invisible jolly keen large late lazy little lonely loud lucky modern narrow new noisy old "
    "orange pale patient plain polite proud purple quick quiet rapid rare red rough round royal rusty sharp "
    "silent simple sleepy small smooth soft southern square strange strong sudden sweet tall tiny unusual useful "
    "warm western white wild wooden yellow young"
)
VERBS = _words(
    "admires|answers|borrows|breaks|builds|buys|calls|carries|catches|chases|cleans|closes|counts|covers|crosses|"
    "draws|dreams of|drops|escapes|examines|explores|fears|feeds|finds|fixes|follows forgets|gathers|greets|"
    "guards|hears|helps|hides|holds|imagines|invents|joins|keeps|kicks|knows|laughs at|leaves|lifts|loses|loves|"
    "measures|meets|needs|opens|paints|passes|photographs|pushes|reads|remembers|repairs|sells|shakes|surprises|"
    "teaches touches|visits|waits for|wakes|warns|watches|writes to",
    "|",
)
ADVERBS = _words(
    "again almost always badly carefully early gladly hardly never often quickly quietly slowly soon today"
)
NAMES = _words(
    "Ada Akira Alice Amara Boris Björn Camille Chloé Diego Elena Fatima François Greta Hiro Ingrid Ivan José "
    "Julia Kofi Lars Leila Maria Mateo Nadia Noor Olga Oscar Priya Quentin Rosa Samuel Søren Tariq Ursula Victor "
    "Wanda Xavier Yusuf Zoë"
)
PLACES = _words(
    "Athens Berlin Bogotá Cairo Chicago Delhi Dublin Geneva Hanoi Helsinki Istanbul Jakarta Kyoto Lagos Lima "
    "Lisbon London Málaga Montréal Nairobi Oslo Paris Prague Quito Rome Seoul Sydney Toronto Vienna Warsaw Zürich"
)
SIGNS = _words(
    "ALL DAY BREAKFAST|ARRIVALS|BEWARE OF THE DOG|BOOKS & COFFEE|BUS STOP|CASH ONLY|CAUTION|CLOSED|DO NOT ENTER|"
    "EMERGENCY EXIT|ENTRANCE|EXIT|FIRE DOOR|FOR SALE|FRAGILE|FREE WI-FI|FRESH BREAD|GARAGE|HAND MADE|"
    "HAPPY BIRTHDAY!|HELP WANTED|HOTEL|INFORMATION|KEEP LEFT|KEEP OFF THE GRASS|LAST CALL|LIBRARY|"
    "LIMITED EDITION|LOST & FOUND|MIND THE GAP|NEW|NO PARKING|NO SMOKING|NOW OPEN|ONE WAY|OPEN|OUT OF ORDER|"
    "PHARMACY|PLATFORM 9|PLEASE KNOCK|PRIVATE|PULL|PUSH|QUIET PLEASE|RESERVED|ROAD CLOSED|SALE|SCHOOL ZONE|"
    "SLOW DOWN|SOLD OUT|STAFF ONLY|STOP|TAXI|THANK YOU|THIS WAY UP|TICKETS|TO LET|WELCOME|WET PAINT|YIELD",
    "|",
)
MONTHS = _words("January February March April May June July August September October November December")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!?#$%&*+-=/@()[]:;,.<>\"'"


def _one(choices: Sequence[str], rng: Rng) -> str:
    return choices[int(rng.integers(len(choices)))]


def _many(noun: str) -> str:
    if noun[-1] in "sxz" or noun.endswith(("ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun[-1] == "y" and noun[-2] not in "aeou" else noun + "s"


def _a(words: str) -> str:
    return f"{'an' if words[0].lower() in 'aeio' else 'a'} {words}"


def _cased(text: str, rng: Rng) -> str:
    """In the case that the dictionary has, in capitals, or with capital initials."""
    draw = rng.random()
    if draw < 0.35:
        return text
    return text.upper() if draw < 0.65 else " ".join(part[:1].upper() + part[1:] for part in text.split(" "))


def word(rng: Rng) -> str:
    """One word, name or place."""
    return _cased(_one((NOUNS, NOUNS, ADJECTIVES, ADVERBS, NAMES, PLACES)[int(rng.integers(6))], rng), rng)


def phrase(rng: Rng) -> str:
    """Two to four words."""
    patterns: tuple[Callable[[], str], ...] = (
        lambda: f"{_one(ADJECTIVES, rng)} {_one(NOUNS, rng)}",
        lambda: f"the {_one(ADJECTIVES, rng)} {_one(NOUNS, rng)}",
        lambda: f"{_one(NOUNS, rng)} & {_one(NOUNS, rng)}",
        lambda: f"{_one(NAMES, rng)}'s {_one(NOUNS, rng)}",
        lambda: f"{_one(NOUNS, rng)} of {_one(PLACES, rng)}",
        lambda: f"{int(rng.integers(2, 100))} {_one(ADJECTIVES, rng)} {_many(_one(NOUNS, rng))}",
    )
    return _cased(patterns[int(rng.integers(len(patterns)))](), rng)


def sign(rng: Rng) -> str:
    """What stands on doors, shops and roads."""
    return _one(SIGNS, rng)


def number(rng: Rng) -> str:
    """Numbers, prices, dates, times, addresses, codes."""
    patterns: tuple[Callable[[], str], ...] = (
        lambda: str(int(rng.integers(10 ** int(rng.integers(1, 7))))),
        lambda: f"${int(rng.integers(1000))}.{int(rng.integers(100)):02d}",
        lambda: f"{int(rng.integers(1, 100))}% OFF",
        lambda: f"{int(rng.integers(24))}:{int(rng.integers(60)):02d}",
        lambda: f"{int(rng.integers(1, 29))} {_one(MONTHS, rng)} {int(rng.integers(1850, 2060))}",
        lambda: f"{int(rng.integers(1900, 2060))}-{int(rng.integers(1, 13)):02d}-{int(rng.integers(1, 29)):02d}",
        lambda: f"+{int(rng.integers(1, 99))} {int(rng.integers(100, 1000))} {int(rng.integers(1000, 10000))}",
        lambda: f"{int(rng.integers(1, 400))} {_one(NOUNS, rng).title()} Street, {_one(PLACES, rng)}",
        lambda: f"www.{_one(ADJECTIVES, rng)}-{_one(NOUNS, rng)}.com",
        lambda: f"{_one(DAYS, rng)} {int(rng.integers(7, 12))}-{int(rng.integers(13, 23))}h",
        lambda: f"No. {int(rng.integers(1, 1000))}",
    )
    return patterns[int(rng.integers(len(patterns)))]()


def characters(rng: Rng) -> str:
    """Characters in no order, so that rare ones are seen and nothing can be guessed."""
    groups = [int(rng.integers(2, 7)) for _ in range(int(rng.integers(1, 4)))]
    return " ".join("".join(_one(_CHARACTERS, rng) for _ in range(count)) for count in groups)


def sentence(rng: Rng) -> str:
    """A sentence of five to fifteen words; what it says need not make sense."""
    noun, other, verb = f"{_one(ADJECTIVES, rng)} {_one(NOUNS, rng)}", _one(NOUNS, rng), _one(VERBS, rng)
    patterns: tuple[Callable[[], str], ...] = (
        lambda: f"The {noun} {verb} the {other}.",
        lambda: f"{_one(NAMES, rng)} {verb} the {noun} in {_one(PLACES, rng)}.",
        lambda: (
            f"Every {_one(DAYS, rng)} the {other} {verb} {_a(_one(NOUNS, rng))}, and {_one(NAMES, rng)} {verb} it too."
        ),
        lambda: f"Does the {noun} know {_one(NAMES, rng)}?",
        lambda: f'"{_one(ADVERBS, rng).capitalize()}," said {_one(NAMES, rng)}, "nobody {verb} the {other}!"',
        lambda: f"{int(rng.integers(2, 60))} {_many(_one(NOUNS, rng))} and {_a(noun)} arrived in {_one(MONTHS, rng)}.",
        lambda: (
            f"{_a(other).capitalize()} is {_one(ADVERBS, rng)} {_one(ADJECTIVES, rng)}; {_a(_one(NOUNS, rng))} is not."
        ),
        lambda: (
            f"From {_one(PLACES, rng)} to {_one(PLACES, rng)} it takes {int(rng.integers(2, 90))} hours by {other}."
        ),
    )
    return patterns[int(rng.integers(len(patterns)))]()


def paragraph(rng: Rng) -> str:
    """Two to four sentences."""
    return " ".join(sentence(rng) for _ in range(int(rng.integers(2, 5))))


KINDS: dict[str, tuple[float, Callable[[Rng], str]]] = {
    "word": (0.20, word),
    "phrase": (0.18, phrase),
    "sign": (0.10, sign),
    "number": (0.12, number),
    "characters": (0.07, characters),
    "sentence": (0.21, sentence),
    "paragraph": (0.12, paragraph),
}
"""Kind -> its part of the samples, and what draws it."""


def draw_phrase(rng: Rng, kinds: tuple[str, ...] = tuple(KINDS)) -> tuple[str, str]:
    """(kind, text) of one of the `kinds`, in their proportions."""
    weights = np.array([KINDS[kind][0] for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    return kind, KINDS[kind][1](rng)
