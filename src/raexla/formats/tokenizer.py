"""The tokenizer files of a released folder, as a model artifact carries them."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from raexla.checkpoint.files import read_json
from raexla.data import ChatTokenizer
from raexla.data.chat import IMAGE_END, IMAGE_START
from raexla.recipe import UserError
from raexla.sampling.model import LANGUAGE_FILES

#: A tokenizer in its older form, without `tokenizer.json`.
APART = ("vocab.json", "merges.txt")


def language_files(folder: Path, rows: int) -> dict[str, bytes]:
    """`tokenizer.json` and what goes with it, by name; made of `vocab.json` and `merges.txt` where it is missing.

    Args:
        rows: of the embedding table; every id must have one.

    Raises:
        UserError: no tokenizer, none of this model's, or one with more ids than there are rows.
    """
    files = {name: (folder / name).read_bytes() for name in LANGUAGE_FILES if (folder / name).is_file()}
    files.pop("config.json", None)
    if "tokenizer.json" not in files:
        files["tokenizer.json"] = _converted(folder)
    with TemporaryDirectory() as place:
        (Path(place) / "tokenizer.json").write_bytes(files["tokenizer.json"])
        from tokenizers import Tokenizer

        known = Tokenizer.from_file(str(Path(place) / "tokenizer.json"))
        if absent := [mark for mark in (IMAGE_START, IMAGE_END) if known.token_to_id(mark) is None]:
            raise UserError(
                f"{folder}: the tokenizer has no {' and no '.join(absent)}, whose ids the weights were trained with: "
                "take the tokenizer files of the same release"
            )
        size = ChatTokenizer.load(place).size
    if size > rows:
        raise UserError(f"{folder}: the tokenizer has ids up to {size - 1}, the embedding table {rows} rows")
    return files


def _converted(folder: Path) -> bytes:
    """A `tokenizer.json` of the older files. Ids are theirs, whatever order transformers would add tokens in."""
    if absent := [name for name in APART if not (folder / name).is_file()]:
        raise UserError(f"{folder} has neither tokenizer.json nor {' and '.join(absent)}: the tokenizer is missing")
    from tokenizers import Tokenizer
    from transformers import Qwen2TokenizerFast

    added = _added_tokens(folder)
    converted = json.loads(Qwen2TokenizerFast.from_pretrained(str(folder)).backend_tokenizer.to_str())
    converted["added_tokens"] = added
    converted["model"]["vocab"] = read_json(folder / "vocab.json")
    made = Tokenizer.from_str(json.dumps(converted))
    for entry in added:
        if (found := made.token_to_id(entry["content"])) != entry["id"]:
            raise UserError(f"{folder}: the added token {entry['content']} has id {entry['id']}, but would get {found}")
    text: str = made.to_str()
    return text.encode()


def _added_tokens(folder: Path) -> list[dict[str, Any]]:
    """The tokens outside the vocabulary in the order of their ids, as `tokenizer.json` lists them."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    config, table = folder / "tokenizer_config.json", folder / "added_tokens.json"
    listed = read_json(config).get("added_tokens_decoder", {}) if config.is_file() else {}
    if not listed and table.is_file():
        listed = {number: {"content": content} for content, number in read_json(table).items()}
    return [{**flags, **entry, "id": int(number)} for number, entry in sorted(listed.items(), key=lambda i: int(i[0]))]
