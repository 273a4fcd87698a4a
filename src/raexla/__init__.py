"""raexla: text-to-image models on Representation Autoencoder latents, with PyTorch/XLA SPMD.

One recipe (a YAML file) is one run. The command line is `raexla` (see `raexla.cli`); every verb of it is one
function of a package below. Importing this package imports nothing else.
"""

__version__ = "0.1.0"
