"""Does a recipe fit a TPU slice, and how fast would it train: said before anyone rents a chip.

Two ways to the answer. `analytic` counts parameters, FLOPs and bytes from the recipe, in a second. `compiler` lets
the Task of `raexla train` trace its own step on placeholders that take no memory (`abstract`, `trace`), and hands the
program to the TPU compiler of libtpu, ahead of time and without a TPU. Both are estimates that have met no TPU, and say
so. What a slice can do stands in one sourced table (`slices`).
"""
