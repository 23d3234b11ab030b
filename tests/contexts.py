"""Contexts and data of evaluations in memory."""

from dataclasses import replace
from pathlib import Path

from anyband.encode.encoder import SensorEncoder
from anyband.evaluate.features import Context
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import Protocol, TransferRecipe
from anyband.labelled.samples import Sample, TaskData


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


def counting_reads(data: TaskData) -> tuple[TaskData, list[int]]:
    """Give the data, and a list of the samples that have been read of it."""
    seen: list[int] = []

    def read(position: int) -> Sample:
        seen.append(position)
        return data.read(position)

    return replace(data, read=read), seen
