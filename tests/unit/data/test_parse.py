"""Members -> text, turns, label: what is accepted and under which reason the rest is refused."""

from typing import Any

import pytest

from raexla.data.parse import (
    draws_image,
    find_captions,
    find_conversation,
    find_field,
    find_image,
    find_label,
    find_text,
    inside,
    parse_json,
)
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
        ({}, {"captions": ["half a pair: \ud83d"]}, "bad_utf8"),
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
    told = [{"from": "system", "value": "Be brief."}, *said]
    assert find_conversation(told, True) == wanted
    assert find_field({}, {"question": "What?"}, "json") == {"question": "What?"}


def test_an_image_is_drawn_where_an_answer_holds_it() -> None:
    asked = find_conversation({"question": "Draw a star.", "answer": "Here you go:\n<image>"}, True)
    assert asked[1].text == "Here you go:\n<image>"
    assert draws_image(asked)
    assert not draws_image(find_conversation({"question": "What?", "answer": "A star."}, True))


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ({"image": "a/b.jpg"}, "a/b.jpg"),
        ({"image": ["a.jpg"]}, "a.jpg"),
        ({"images": ["a.jpg"]}, "a.jpg"),
        ({"file_name": "a.jpg", "image": None}, "a.jpg"),
        ({"image": []}, None),
        ({"image": "None"}, None),
        ({"conversations": []}, None),
        ({"video": ""}, None),
    ],
)
def test_the_picture_of_a_row(row: dict[str, Any], path: str | None) -> None:
    assert find_image(row) == path


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": ["a.jpg", "b.jpg"]}, "several_images"),
        ({"image": 7}, "missing_image"),
        ({"image": {"bytes": "..."}}, "missing_image"),
        ({"video": "a.mp4"}, "unsupported_media"),
    ],
)
def test_the_picture_of_a_row_refused(row: dict[str, Any], reason: str) -> None:
    with refused(reason):
        find_image(row)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/./b//c.jpg", "list/a/b/c.jpg"),
        ("a\\b.jpg", "list/a/b.jpg"),
        ("..a/b...jpg", "list/..a/b...jpg"),
        ("/data/web/a.jpg", "a.jpg"),
        ("/data/web//a.jpg", "a.jpg"),
    ],
)
def test_paths_inside_the_folder(path: str, name: str) -> None:
    assert inside(path, "/data/web", "list") == name


@pytest.mark.parametrize(
    "path",
    [
        "../a.jpg", "a/../../b.jpg", "a/..", "..\\a.jpg", "/etc/passwd", "/data/webx/a.jpg", "/data/web/../a.jpg",
        "file:///etc/passwd", "gs://b/a.jpg", "", ".", "/", "a\0.jpg", "\ud800.jpg", "\\\\host\\a.jpg",
    ],
)  # fmt: skip
def test_paths_out_of_the_folder(path: str) -> None:
    with refused("outside_folder"):
        inside(path, "/data/web", "list")


def test_paths_that_no_file_system_has() -> None:
    with refused("missing_image"):
        inside("a" * 300 + ".jpg")
    with refused("missing_image"):
        inside("abcdefg/" * 200 + "a.jpg")
    assert inside("/gs/a.jpg", "/") == "gs/a.jpg"
    assert inside("gs://b/x/a.jpg", "gs://b/x") == "a.jpg"


def test_the_caption_of_a_row_is_what_it_is_called_first() -> None:
    assert find_text({"prompt": "b", "caption": "a"}) == b"a"
    assert find_text({"captions": ["x", "y"]}) == b"x"
    assert find_text({"caption": 3, "image": "x"}) is None


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
        ({"question": "What?", "answer": "\udc00"}, "bad_utf8"),
        ([{"from": "system", "value": "Be brief."}], "bad_conversation"),
        ({"question": "<image><image>", "answer": "x"}, "several_images"),
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
