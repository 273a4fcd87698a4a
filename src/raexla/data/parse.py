"""Members of a shard's sample (bytes by extension) -> text, turns, label; or a typed refusal."""

import json
from collections.abc import Mapping
from typing import Any

from raexla.data.sample import Refused, Turn

IMAGE_MARK = "<image>"
"""Where the image stands in a conversation's text, as in LLaVA's and the released data."""

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def decode_text(data: bytes, what: str) -> str:
    """UTF-8, stripped of white space and of a byte order mark; raises `Refused("bad_utf8")`."""
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise Refused("bad_utf8", f"{what}: {error}") from None


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object; raises `Refused("bad_json")` or `Refused("bad_utf8")`."""
    text = decode_text(data, "json")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused("bad_json", str(error)) from None
    if not isinstance(value, dict):
        raise Refused("bad_json", f"{type(value).__name__} where an object is expected")
    return value


def find_field(members: Mapping[str, bytes], meta: Mapping[str, Any], path: str) -> Any:
    """`txt` (a member, as text) or `json.a.b` (a value in the JSON member); None if it isn't there."""
    head, *rest = path.split(".")
    if head != "json":
        return decode_text(members[path], path) if path in members else None
    value: Any = meta
    for name in rest:
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def find_captions(members: Mapping[str, bytes], meta: Mapping[str, Any], paths: tuple[str, ...]) -> list[str]:
    """All different captions in the order of the fields; a field may hold one or a list.

    Raises `Refused`: `missing_caption` (no such field), `empty_caption`, `bad_caption` (not text), `bad_utf8`.
    """
    found: dict[str, None] = {}
    there = False
    for path in paths:
        value = find_field(members, meta, path)
        if value is None:
            continue
        there = True
        for caption in value if isinstance(value, list) else [value]:
            if not isinstance(caption, str):
                raise Refused("bad_caption", f"{path}: {type(caption).__name__} where text is expected")
            if caption.strip():
                found[caption.strip()] = None
    if not there:
        raise Refused("missing_caption", f"none of {', '.join(paths)}")
    if not found:
        raise Refused("empty_caption", f"{', '.join(paths)}: only white space")
    return list(found)


def find_conversation(value: Any, has_image: bool) -> tuple[Turn, ...]:
    """Turns out of `[{"from": "human"|"gpt", "value": ...}]`, `[{"role": ..., "content": ...}]` or
    `{"question": ..., "answer": ...}`: user and assistant by turns, the last one the assistant's.

    An image that no turn mentions is put before the first question. Raises `Refused`: `missing_conversation`,
    `bad_conversation`, `missing_image`.
    """
    if value is None:
        raise Refused("missing_conversation")
    if isinstance(value, Mapping):
        value = [
            {"role": "user", "content": value.get("question")},
            {"role": "assistant", "content": value.get("answer")},
        ]
    if not isinstance(value, list) or not value:
        raise Refused("bad_conversation", f"{type(value).__name__} where a list of turns is expected")
    turns = []
    for number, plain in enumerate(value):
        if not isinstance(plain, Mapping):
            raise Refused("bad_conversation", f"turn {number}: {type(plain).__name__} where an object is expected")
        role, text = plain.get("from", plain.get("role")), plain.get("value", plain.get("content"))
        if _ROLES.get(str(role)) != ("user", "assistant")[number % 2]:
            raise Refused("bad_conversation", f"turn {number} is by {role!r}: user and assistant must take turns")
        if not isinstance(text, str) or not text.strip():
            raise Refused("bad_conversation", f"turn {number} has no text")
        turns.append(Turn(("user", "assistant")[number % 2], text.strip()))
    if len(turns) % 2:
        raise Refused("bad_conversation", "the last question has no answer")
    marks = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    if marks > 1:
        raise Refused("bad_conversation", f"{marks} images; one is supported")
    if marks and not has_image:
        raise Refused("missing_image", "a turn mentions it")
    if has_image and not marks:
        turns[0] = Turn("user", f"{IMAGE_MARK}\n{turns[0].text}")
    return tuple(turns)


def find_label(value: Any) -> int:
    """A class number from text or JSON; raises `Refused`: `missing_label`, `bad_label`."""
    if value is None:
        raise Refused("missing_label")
    try:
        return int(str(value).strip())
    except ValueError:
        raise Refused("bad_label", repr(value)[:80]) from None
