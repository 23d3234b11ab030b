"""Contexts of evaluations in memory."""

from pathlib import Path

from anyband.encode.encoder import SensorEncoder
from anyband.evaluate.features import Context
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import Protocol, TransferRecipe
from anyband.labelled.samples import TaskData


def context_of(
    encoder: SensorEncoder,
    data: TaskData,
    protocol: Protocol,
    recipe: TransferRecipe,
    *,
    untrained: bool = False,
    cache: Path | None = None,
    checkpoint_hash: str = "tiny",
) -> Context:
    """Make a context of an encoder, and with `untrained` of that encoder untrained too."""
    encoders = {"encoder": encoder}
    if untrained:
        encoders["untrained encoder"] = encoder.untrained(seed=1)
    return Context(
        recipe=recipe,
        protocol=protocol,
        data=data,
        encoders=encoders,
        reader=TaskReader(encoder, data, recipe),
        cache=cache,
        checkpoint_hash=checkpoint_hash,
    )
