"""What a run says of itself: metrics (JSONL first), where the time went, and a progress bar.

`metrics.py` writes `metrics.jsonl` and mirrors it to TensorBoard and, if wanted, wandb; `lines.py` is the kind of file
that this is, cut back when a run goes back; `timing.py` splits wall-clock
time into training, compilation, input wait, evaluation and saving, and computes goodput and MFU; `progress.py` is
the bar a person sees.
"""

from raexla.obs.lines import Lines, read_lines
from raexla.obs.metrics import CONSUMED, Metrics, ObsRecipe, read_metrics
from raexla.obs.progress import Progress
from raexla.obs.timing import Clock

__all__ = ["CONSUMED", "Clock", "Lines", "Metrics", "ObsRecipe", "Progress", "read_lines", "read_metrics"]
