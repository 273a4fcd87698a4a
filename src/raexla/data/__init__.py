"""Shard list -> order -> sample -> batch, each with its cursor.

The order of a run is a pure function of (shard indexes, mixture, seed): S canonical streams, dealt to whatever
processes and workers there are. Every batch carries the cursor that resumes exactly after it, whatever was read ahead.
A sample whose content is refused is replaced by the next of its own stream and source, counted and named; a transport
failure is retried and then stops the run. What a stage makes of samples is two functions that it hands in: transform
and collate.
"""

from raexla.data.batches import Batch, TooMuchBadData
from raexla.data.chat import Chat, ChatRecipe, ChatRow, ChatTokenizer
from raexla.data.collate import chat_rows, collate_chat, image_rows
from raexla.data.cursor import merge_cursors
from raexla.data.decode import decode_image
from raexla.data.loader import DataRecipe, Loader, LoaderRecipe, open_loader
from raexla.data.one_pass import open_pass
from raexla.data.order import OrderRecipe
from raexla.data.sample import Kind, Refusal, Refused, Sample, Turn
from raexla.data.source import SourceRecipe
from raexla.data.transforms import (
    CentreCropRecipe,
    ImageTransformRecipe,
    RandomCropRecipe,
    SquashRecipe,
    build_transform,
)

__all__ = [
    "Batch",
    "CentreCropRecipe",
    "Chat",
    "ChatRecipe",
    "ChatRow",
    "ChatTokenizer",
    "DataRecipe",
    "ImageTransformRecipe",
    "Kind",
    "Loader",
    "LoaderRecipe",
    "OrderRecipe",
    "RandomCropRecipe",
    "Refusal",
    "Refused",
    "Sample",
    "SourceRecipe",
    "SquashRecipe",
    "TooMuchBadData",
    "Turn",
    "build_transform",
    "chat_rows",
    "collate_chat",
    "decode_image",
    "image_rows",
    "merge_cursors",
    "open_loader",
    "open_pass",
]
