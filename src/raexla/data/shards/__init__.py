"""WebDataset shards: write, pack, index, read by (shard, row), verify, look at.

A shard is a plain tar as webdataset writes it, so that other tools read ours and ours reads theirs. What this package
adds stands beside it: an index with checksums and the place of every member, which gives exact resume, range reads and
a global order. Nothing is unpickled, no shell is run, no tar is extracted.
"""

from raexla.data.shards.check import VerifyReport, verify
from raexla.data.shards.index import Index, ShardEntry, index, load_index
from raexla.data.shards.made import LeftOut, MadeReport, Making, state_of, workers, write_made
from raexla.data.shards.pack import pack
from raexla.data.shards.parallel import usual_processes
from raexla.data.shards.peek import Card, contact_sheet, peek
from raexla.data.shards.reader import BoundedCache, ShardSet
from raexla.data.shards.reshard import ReshardRecipe, reshard
from raexla.data.shards.stats import parse_bytes, stats, stats_lines
from raexla.data.shards.store import Retry, ShardDamaged, ShardUnavailable, Store
from raexla.data.shards.writer import ShardWriter

__all__ = [
    "BoundedCache",
    "Card",
    "Index",
    "LeftOut",
    "MadeReport",
    "Making",
    "ReshardRecipe",
    "Retry",
    "ShardDamaged",
    "ShardEntry",
    "ShardSet",
    "ShardUnavailable",
    "ShardWriter",
    "Store",
    "VerifyReport",
    "contact_sheet",
    "index",
    "load_index",
    "pack",
    "parse_bytes",
    "peek",
    "reshard",
    "state_of",
    "stats",
    "stats_lines",
    "usual_processes",
    "verify",
    "workers",
    "write_made",
]
