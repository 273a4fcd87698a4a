"""Members -> text, turns, label: what is accepted and under which reason the rest is refused."""

from typing import Any

import pytest

from raexla.data.parse import find_captions, find_conversation, find_field, find_label, parse_json
from raexla.data.sample import Refused, Turn


def refused(reason: str) -> Any:
    return pytest.raises(Refused, match=rf"^{reason}\b")


def test_captions_are_gathered_once_each_in_order() -> None:
    meta = {"captions": ["b", " a ", ""], "deep": {"text": "c"}}
    found = find_captions({"txt": b"\xef\xbb\xbfa\n"}, meta, ("txt", "json.captions", "json.deep.text", "json.none.x"))
    assert found == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("members", "meta", "reason"),
    [
        ({}, {}, "missing_caption"),
        ({"txt": b" \n"}, {"captions": [""]}, "empty_caption"),
        ({"txt": b"\xff\xfe"}, {}, "bad_utf8"),
        ({}, {"captions": [3]}, "bad_caption"),
        ({}, {"captions": {"a": "b"}}, "bad_caption"),
    ],
)
def test_captions_refused(members: dict[str, bytes], meta: dict[str, Any], reason: str) -> None:
    with refused(reason):
        find_captions(members, meta, ("txt", "json.captions"))


@pytest.mark.parametrize("data", [b"{", b"[1]", b"[" * 100_000, b""])
def test_json_refused(data: bytes) -> None:
    with refused("bad_json"):
        parse_json(data)


def test_conversations_of_all_spellings() -> None:
    wanted = (Turn("user", "<image>\nWhat?"), Turn("assistant", "A star."))
    assert find_conversation([{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A star."}], True) == wanted
    said = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": " A star. "}]
    assert find_conversation(said, True) == wanted
    assert find_conversation({"question": "What?", "answer": "A star."}, True) == wanted
    assert find_conversation({"question": "What?", "answer": "A star."}, False)[0] == Turn("user", "What?")
    assert find_field({}, {"question": "What?"}, "json") == {"question": "What?"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "missing_conversation"),
        ([], "bad_conversation"),
        ("What?", "bad_conversation"),
        ([1, 2], "bad_conversation"),
        ([{"from": "gpt", "value": "first"}], "bad_conversation"),
        ([{"from": "human", "value": "no answer"}], "bad_conversation"),
        ({"question": "What?"}, "bad_conversation"),
        ({"question": "<image><image>", "answer": "x"}, "bad_conversation"),
        ({"question": "<image> What?", "answer": "x"}, "missing_image"),
    ],
)
def test_conversations_refused(value: Any, reason: str) -> None:
    with refused(reason):
        find_conversation(value, has_image=False)


def test_labels() -> None:
    assert find_label("7\n") == find_label(7) == 7
    with refused("missing_label"):
        find_label(None)
    with refused("bad_label"):
        find_label("cat")
