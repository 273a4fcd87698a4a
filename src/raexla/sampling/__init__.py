"""A trained model at work: text -> latent -> image, image + question -> answer.

`codec.py` opens a codec with the artifacts it refers to, `model.py` assembles a text-to-image model from a recipe or
from its artifact, `images.py` draws pictures, `answers.py` answers questions; both work in batches of one fixed shape
and compile each of their steps once. Training uses the same functions for its samples. `draw.py` and `ask.py` are the
verbs `sample` and `understand`, `sheet.py` writes PNGs and contact sheets.
"""
