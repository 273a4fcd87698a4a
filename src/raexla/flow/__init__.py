"""Flow matching: path, time density and shift, samplers, guidance.

Everything is a pure function of tensors. Samplers and guidance take any callable `velocity(x, t)`, so they can be
tested without a network, and all draws are arguments, so a run is the same on every back end.

The convention, used everywhere: t = 0 is data, t = 1 is noise, x_t = (1 - t) x + t eps, and the network predicts
v = eps - x.
"""
