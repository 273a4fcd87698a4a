"""Keys and permutations for host-side choices: fixed for good by their definition, not by a library's version.

Device-side randomness is `raexla.runtime.random`; this is for what happens before the device: order, captions, crops.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(*parts: str | int) -> int:
    """A 64-bit key of a list of names and numbers."""
    plain = "\x1f".join(f"{type(part).__name__[0]}{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(plain.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def permutation(count: int, seed: int) -> np.ndarray:
    """A permutation int64 `[count]`: the order of `count` SplitMix64 values that start at `seed`.

    No two of these values are equal (the function is one-to-one), so any way of sorting gives this order.
    """
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.argsort(z)


def generator(seed: int, purpose: str, uid: str, epoch: int) -> np.random.Generator:
    """A sample's own generator for one purpose in one epoch, whatever process or thread asks."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, uid, epoch)))
