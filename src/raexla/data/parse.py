"""Members of a shard's sample (bytes by extension) -> text, turns, label; or a typed refusal."""

import json
from collections.abc import Mapping
from typing import Any

from raexla.data.sample import Refused, Turn

IMAGE_MARK = "<image>"
"""Where the image stands in a conversation's text, as in LLaVA's and the released data."""

CAPTION_FIELDS = ("text", "caption", "prompt", "captions")
"""What the caption of a row of a list is called, in the order in which they are looked for."""
IMAGE_FIELDS = ("image", "images", "file_name")
"""What the path of its picture is called."""

_NO_IMAGE = ("", "None", "none", "nan")  # how the released data spell it
_MAX_PATH, _MAX_PART = 1024, 255  # bytes of a path and of each of its parts; no file system takes more

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def decode_text(data: bytes, what: str) -> str:
    """UTF-8, stripped of white space and of a byte order mark; raises `Refused("bad_utf8")`."""
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise Refused("bad_utf8", f"{what}: {error}") from None


def _encodable(text: str, what: str) -> str:
    """The text, if it has no half of a surrogate pair, which JSON can spell and no tokeniser takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused("bad_utf8", f"{what}: {error}") from None
    return text


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
                found[_encodable(caption.strip(), path)] = None
    if not there:
        raise Refused("missing_caption", f"none of {', '.join(paths)}")
    if not found:
        raise Refused("empty_caption", f"{', '.join(paths)}: only white space")
    return list(found)


def find_conversation(value: Any, has_image: bool) -> tuple[Turn, ...]:
    """Turns out of `[{"from": "human"|"gpt", "value": ...}]`, `[{"role": ..., "content": ...}]` or
    `{"question": ..., "answer": ...}`: user and assistant by turns, the last one the assistant's.

    An image that no turn mentions is put before the first question. A system turn at the head is passed over: the
    chat's recipe has its own. Raises `Refused`: `missing_conversation`, `bad_conversation`, `bad_utf8`,
    `missing_image`, `several_images`.
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
    if isinstance(value[0], Mapping) and value[0].get("from", value[0].get("role")) == "system":
        value = value[1:]
    turns: list[Turn] = []
    for number, plain in enumerate(value):
        if not isinstance(plain, Mapping):
            raise Refused("bad_conversation", f"turn {number}: {type(plain).__name__} where an object is expected")
        role, text = plain.get("from", plain.get("role")), plain.get("value", plain.get("content"))
        if _ROLES.get(str(role)) != ("user", "assistant")[number % 2]:
            raise Refused("bad_conversation", f"turn {number} is by {role!r}: user and assistant must take turns")
        if not isinstance(text, str) or not text.strip():
            raise Refused("bad_conversation", f"turn {number} has no text")
        turns.append(Turn(("user", "assistant")[number % 2], _encodable(text.strip(), f"turn {number}")))
    if len(turns) % 2 or not turns:
        raise Refused("bad_conversation", "the last question has no answer")
    marks = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    if marks > 1:
        raise Refused("several_images", f"{marks} in the turns; one is supported")
    if marks and not has_image:
        raise Refused("missing_image", "a turn mentions it")
    if has_image and not marks:
        turns[0] = Turn("user", f"{IMAGE_MARK}\n{turns[0].text}")
    return tuple(turns)


def draws_image(turns: tuple[Turn, ...]) -> bool:
    """Whether the image stands in an answer: it is to be drawn, not looked at."""
    return any(turn.role == "assistant" and IMAGE_MARK in turn.text for turn in turns)


def find_image(row: Mapping[str, Any]) -> str | None:
    """The path of a row's picture; None if it has none. A list of one counts as the one.

    Raises `Refused`: `several_images`, `missing_image` (something else than a path), `unsupported_media` (a video).
    """
    for name in IMAGE_FIELDS:
        value = row.get(name)
        if isinstance(value, list):
            if len(value) > 1:
                raise Refused("several_images", f"{name}: {len(value)}; one is supported")
            value = value[0] if value else None
        if value is None or value in _NO_IMAGE:
            continue
        if not isinstance(value, str):
            raise Refused("missing_image", f"{name}: {type(value).__name__} where a path is expected")
        return value
    if row.get("video") not in (None, *_NO_IMAGE):
        raise Refused("unsupported_media", f"video: {str(row['video'])[:80]}")
    return None


def find_text(row: Mapping[str, Any]) -> bytes | None:
    """The first caption of a row, as a `txt` member would hold it."""
    for name in CAPTION_FIELDS:
        value = row.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
    return None


def inside(path: str, root: str = "", folder: str = "") -> str:
    """A row's path -> a name below the root of the pictures, without `.` and empty parts. `folder`: where in the root a
    relative path starts. An absolute path or a URL is taken only if it begins with `root`.

    Raises `Refused`: `outside_folder`, for what leads out of the root or can't be a name; `missing_image`, for a name
    that no file system has.
    """
    plain, head = path.replace("\\", "/"), root.rstrip("/") + "/"
    if root and plain.startswith(head):
        plain, folder = plain[len(head) :].lstrip("/"), ""
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or "://" in plain or "\0" in plain or ".." in parts or not parts:
        raise Refused("outside_folder", ascii(path)[1:-1][:80])
    if folder:
        parts = [*folder.split("/"), *parts]
    try:
        longest, whole = max(len(part.encode()) for part in parts), len("/".join(parts).encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        raise Refused("outside_folder", ascii(path)[1:-1][:80]) from None
    if longest > _MAX_PART or whole > _MAX_PATH:
        raise Refused("missing_image", f"a path of {len(path)} characters: {path[:40]}...")
    return "/".join(parts)


def find_label(value: Any) -> int:
    """A class number from text or JSON; raises `Refused`: `missing_label`, `bad_label`."""
    if value is None:
        raise Refused("missing_label")
    try:
        return int(str(value).strip())
    except ValueError:
        raise Refused("bad_label", repr(value)[:80]) from None
