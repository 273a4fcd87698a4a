"""What a source gives out: one sample, and the typed reasons for which one is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

Kind = Literal["caption", "conversation", "image", "text"]
"""`caption`: image + text. `conversation`: question-answer turns, with an image or without. `image`: the image only,
with a label where there is one. `text`: text only."""

Reason = Literal[
    "bad_caption",
    "bad_conversation",
    "bad_json",
    "bad_label",
    "bad_latent",
    "bad_utf8",
    "duplicate_key",
    "empty_caption",
    "empty_image",
    "image_too_large",
    "missing_caption",
    "missing_conversation",
    "missing_image",
    "missing_label",
    "not_an_image",
    "other_kind",
    "outside_folder",
    "several_images",
    "text_too_long",
    "answer_too_long",
    "truncated_image",
    "undecodable_image",
    "unsupported_media",
]
"""The words under which refusals are counted. A transport failure is none of them: it is never a skip. `other_kind` is
no fault: a picture that is to be drawn, in a source of questions, or the other way round."""

REASONS: tuple[str, ...] = get_args(Reason)


class Refused(Exception):
    """A sample's content can't be used. The loader counts it under `reason` and takes the next of the same stream."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; `<image>` in the text marks where the sample's image stands."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One decoded sample. `image` is uint8 RGB `[H, W, 3]`, upright, at its stored size; `latent` float16 or float32
    `[N, C]`, in its place where the source holds latents."""

    uid: str
    """`source/shard/key`: unique in a run, independent of order, epoch and process."""
    source: str
    kind: Kind
    image: np.ndarray | None = None
    caption: str | None = None
    conversation: tuple[Turn, ...] = ()
    label: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What the sample's JSON member holds, unread by the loader."""
    latent: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused sample, as it goes to `quarantine.jsonl`."""

    uid: str
    source: str
    reason: str
    detail: str
    stream: int
    epoch: int

    def as_dict(self) -> dict[str, str | int]:
        """Plain JSON values."""
        return {
            "uid": self.uid,
            "source": self.source,
            "reason": self.reason,
            "detail": self.detail,
            "stream": self.stream,
            "epoch": self.epoch,
        }
