"""The layouts that data comes in, each read by one small class with the same four members.

- `webdataset`: tars of `x.jpg`, `x.txt`, `x.json` (img2dataset, BLIP3o, DataComp, our own);
- `scale_rae`: the official loader's tars, where every JSON member is a sample and names its picture;
- `jsonl`: lists whose rows name pictures (LLaVA, Cambrian, Hugging Face's imagefolder), or hold text alone;
- `folder`: loose pictures with a `.txt` and a `.json` of the same name.

A reader is a sequence of shards of samples: `shard_samples`, `key(shard, row)`, `read(shard, row, wanted)` and
`order_hash`, which stands for all that the order of a run depends on. Any sample can be read at any time, so the order,
the cursor and the resume know nothing of layouts. `find` is the one place that says which layout a path has; `open`
makes the reader.
"""

from raexla.data.layouts.find import Layout
from raexla.data.layouts.lines import index_lines
from raexla.data.layouts.open import open_reader
from raexla.data.layouts.reader import Reader

__all__ = ["Layout", "Reader", "index_lines", "open_reader"]
