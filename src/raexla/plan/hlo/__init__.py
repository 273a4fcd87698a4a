"""Reading the optimised program that the compiler returns.

`text` parses, `walk` says how often each computation runs, and `products`, `collectives`, `memory` read one kind of
fact each. Nothing here needs a compiler, a device or torch.
"""
