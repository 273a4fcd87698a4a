"""The networks: modules that take and return tensors and know nothing of devices, recipes' origins or training.

Building (possible on `meta`) and loading weights are two steps everywhere. What a runtime may swap (an attention
kernel, a remat boundary, a scanned stack) is a named submodule. Beside each family stands its sharding table;
`flops.py` counts the multiply-adds of all of them.
"""
