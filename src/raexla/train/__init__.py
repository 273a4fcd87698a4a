"""Training: one loop for all stages, one Task per stage.

`loop.py` holds the order of events, `task.py` what a Task is, `base.py` the recipe keys that stages share,
`directory.py` the run directory. Each stage's whole recipe stands beside its Task: `encoder.py`, `language.py`,
`decoder.py`, `pretrain.py`, `finetune.py`; `stages.py` is the table of them.
"""
