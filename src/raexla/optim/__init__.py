"""Optimisers, one per trained part, each with its own learning rate, schedule, clipping and moving average.

`schedule.py` turns steps into learning rates on the host; `part.py` owns one AdamW and the EMA of its parameters.
The papers' T2I models train LLM and DiT with two decoupled optimisers (000, appendix A); a GAN is decoder + critic.
"""

from raexla.optim.part import Part
from raexla.optim.schedule import OptimizerRecipe, ScheduleRecipe, learning_rate

__all__ = ["OptimizerRecipe", "Part", "ScheduleRecipe", "learning_rate"]
