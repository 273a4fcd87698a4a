"""What `tools/ablate_decoder.py` is made of: `variants` (what is trained), `runs` (training, resumable), `scores`
(measuring), `summary` (tables over seeds), `sheet` (pictures)."""
