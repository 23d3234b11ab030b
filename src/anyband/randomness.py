"""Random numbers as pure functions of (seed, step, sample, purpose).

Nothing here keeps state, so the same step sees the same draws whatever the number of workers or processes, and a
resumed run recomputes instead of restoring. NumPy's Philox is a counter-based generator: its key takes the seed and
the purpose, its counter the step and the sample.
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

    Args:
        seed: of the run, any integer of 64 bits.
        step: training step or epoch, from 0.
        sample: identity of the sample inside the data (not its position in a batch), from 0.
        purpose: what the draw is for, for example `mask`.

    Returns:
        A NumPy generator at the start of its stream.

    Source:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox 4x64).
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
    """Draw numbers in [0, 1) for every sample. A sample's numbers do not depend on the others in the batch.

    Args:
        seed: of the run.
        step: training step or epoch.
        samples: identities of the samples.
        purpose: what the draw is for.
        shape: of one sample's numbers.

    Returns:
        float64 (sample, *shape).
    """
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
    """Draw an order of `size` things, the same for equal (seed, step, purpose).

    Returns:
        int64 (size,), each of 0 … size − 1 once.
    """
    return generator(seed, step=step, sample=0, purpose=purpose).permutation(size)
