"""Parts of `tools/chaos.py`: starting runs, killing them, comparing what they leave behind."""
