"""Shard list -> order -> sample -> batch, each with its cursor.

The order of a run is a pure function of (shard indexes, mixture, seed): S canonical streams, dealt to whatever
processes there are. Every batch carries the cursor that resumes exactly after it, whatever was read ahead. A sample
whose content is refused is replaced by the next of its own stream and source, counted and named; a transport failure is
retried and then stops the run. What a stage makes of samples is two functions that it hands in: transform and collate.
"""
