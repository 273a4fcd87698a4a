"""A trained model at work: text or class -> latent -> image, image + question -> answer.

`codec.py` opens a codec with the artifacts it refers to. `base.py` says what the sampler needs of a model; `model.py`
assembles a text-to-image model from a recipe or from its artifact, `classes.py` a class-conditional one. `images.py`
draws pictures with either, guided by a weaker one if `weak.py` opens it; `answers.py` answers questions; both work in
batches of one fixed shape and compile each of their steps once. Training uses the same functions for its samples.
`draw.py` and `ask.py` are the verbs `sample` and `understand`, `sheet.py` writes PNGs and contact sheets.
"""
