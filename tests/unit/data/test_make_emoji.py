"""tools/make_emoji.py: captions of sequences, and a clear line without the font."""

import subprocess
import sys
from pathlib import Path

import pytest
from tools.make_emoji import JOINER, KEYCAP, MAN, TONES, Folders, caption

TOOL = Path(__file__).parents[3] / "tools" / "make_emoji.py"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\U0001f600", "grinning face"),
        (MAN + TONES[1] + JOINER + "\U0001f680", "man, light skin tone, rocket"),
        ("\U0001f3c3" + JOINER + "\u2640\ufe0f", "runner, woman"),
        ("\U0001f1e9\U0001f1ea", "flag de"),
        ("\U0001f3f4" + "".join(chr(0xE0000 + ord(char)) for char in "gbsct") + "\U000e007f", "flag scotland"),
        ("3\ufe0f" + KEYCAP, "keycap digit three"),
        ("\u2640", "female sign"),
        ("\U000fffff", None),
    ],
)
def test_captions(text: str, words: str | None) -> None:
    assert caption(text) == words


def test_without_the_font_the_package_is_named(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--out", str(tmp_path / "out"), "--font", str(tmp_path / "none.ttf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "apt-get install fonts-noto-color-emoji" in done.stderr
    assert not (tmp_path / "out").exists()


def test_one_picture_in_25_is_held_out_if_asked(tmp_path: Path) -> None:
    names = [f"{code:x}" for code in range(0x1F300, 0x1F300 + 1000)]
    parted, whole = Folders(tmp_path / "train", tmp_path / "validation"), Folders(tmp_path / "all", None)
    held = [name for name in names if parted.of(name) == tmp_path / "validation"]
    assert 20 < len(held) < 60
    assert {whole.of(name) for name in names} == {tmp_path / "all"}
