"""From a trained model to numbers that carry their protocol, and a report that shows them.

`scenes.py` judges nano pictures exactly, `metrics.py` compares images, `reconstruct.py` takes images through a codec,
`understanding.py` asks a model about images, `nano.py` is the nano benchmark that puts them together, `report/` writes
one self-contained page about a folder of runs.
"""
