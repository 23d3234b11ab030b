"""Random numbers as pure functions of (seed, step, sample, purpose).

Nothing keeps state, so the number of workers changes no draw, and a resumed run recomputes instead of restoring.
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from anyband.arrays import Array, Float

__all__ = ["generator", "permutation", "uniform"]

# Which word of a counter is the sample.
_SAMPLE_WORD = 2


def generator(seed: int, *, step: int, sample: int, purpose: str) -> np.random.Generator:
    """Make the generator of one draw. Equal arguments give equal streams; different ones independent streams.

    `step` is a training step or epoch; `sample` the identity in the data, not its position in a batch; both from 0.
    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox 4x64).
    """
    word = int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little")
    key = np.array([seed % 2**64, word], dtype=np.uint64)
    # The lowest counter word is left to the generator itself, which counts its own draws there.
    counter = np.array([0, step, 0, 0], dtype=np.uint64)
    counter[_SAMPLE_WORD] = sample
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def uniform(
    seed: int, *, step: int, samples: Iterable[int], purpose: str, shape: tuple[int, ...]
) -> Float[Array, "sample ..."]:
    """Draw float64 numbers in [0, 1) for every sample; they do not depend on the others in the batch."""
    identities = list(samples)
    drawn = np.empty((len(identities), *shape))
    if not identities:
        return drawn
    # Making a generator takes longer than most draws, so one is set to the start of each sample's stream.
    source = generator(seed, step=step, sample=identities[0], purpose=purpose)
    start = source.bit_generator.state
    for row, sample in zip(drawn, identities, strict=True):
        start["state"]["counter"][_SAMPLE_WORD] = sample
        source.bit_generator.state = start
        source.random(out=row)
    return drawn


def permutation(seed: int, *, step: int, purpose: str, size: int) -> Array:
    """Draw an order of 0 … size − 1, the same for equal (seed, step, purpose)."""
    return generator(seed, step=step, sample=0, purpose=purpose).permutation(size)
