"""Building blocks of the networks, in plain PyTorch.

Every module takes and returns tensors, has static shapes and knows nothing of devices, files or recipes. What a
runtime may swap (the attention kernel, a stack of blocks) is a named submodule. Tables that follow from the sizes
alone (positions, rotations) are non-persistent buffers, refilled by `raexla.nn.tables.reset_tables` after a module
built on `meta` has been given memory.

Shape letters: B batch, N tokens, C channels of a token, H heads, D channels of a head, p patch size.
"""
