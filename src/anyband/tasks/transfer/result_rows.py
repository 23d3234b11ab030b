"""From what a protocol found to rows of the table of results."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from anyband.tasks.transfer.evidence import scores_of
from anyband.tasks.transfer.recipe import Protocol, TransferRecipe
from anyband.tasks.transfer.records import Evidence, Outcome
from anyband.tasks.transfer.result_records import ResultRow, json_values

if TYPE_CHECKING:
    from anyband.tasks.transfer.setting import Setting

__all__ = ["ground_notes", "result_id", "result_rows", "settings_of"]

# What a protocol does not use changes no result, so it is no part of what a result is known by.
_PARTS_OF: dict[Protocol, tuple[str, ...]] = {
    "knn": ("knn",),
    "linear": ("linear",),
    "finetune": ("fit",),
    "segment": ("head", "fit"),
    "change": ("head", "fit"),
    "regress": ("head", "fit"),
    "leave-one-band-out": ("measures", "knn", "linear", "head", "fit"),
}
# Where the data lie says nothing of what they are; their fingerprint and their parts do.
_PLACES_OF_DATA = ("source", "root")
_ID_BYTES = 16


def result_rows(setting: "Setting", outcomes: Sequence[Outcome]) -> list[ResultRow]:
    """Score outcomes and write down what they are of.

    Args:
        setting: that they were found with.
        outcomes: of the protocol, and of what it is compared with.
    """
    recipe, data, reader = setting.recipe, setting.data, setting.reader
    settings = settings_of(recipe, setting.protocol, reader=reader.settings())
    made = dt.datetime.now(dt.UTC).replace(microsecond=0)
    notes = (*data.notes, *reader.notes)
    return [
        ResultRow(
            id=result_id(setting, outcome.features, settings),
            made=made,
            recipe=recipe.name,
            protocol=setting.protocol,
            features=outcome.features,
            width=outcome.width,
            checkpoint=(recipe.checkpoint or "").rstrip("/").rsplit("/", 1)[-1],
            checkpoint_hash=setting.checkpoint_hash,
            data=data.name,
            data_fingerprint=data.fingerprint,
            kind=data.kind,
            num_samples={str(part): count for part, count in data.num_samples.items()},
            seed=recipe.seed,
            settings=settings,
            scores=scores_of(outcome.evidence, seed=recipe.seed, shown=setting.shown),
            chosen=json_values(outcome.chosen),
            curves={name: tuple(float(value) for value in values) for name, values in outcome.curves.items()},
            notes=tuple(dict.fromkeys((*notes, *outcome.notes, *ground_notes(outcome.evidence)))),
            evidence=outcome.evidence,
        )
        for outcome in outcomes
    ]


def settings_of(recipe: TransferRecipe, protocol: Protocol, *, reader: Mapping[str, Any]) -> dict[str, Any]:
    """List the choices that a result depends on, as JSON values: not names, paths, nor what the protocol ignores.

    Args:
        recipe: with all choices.
        protocol: what is done.
        reader: settings of the reader, such as where the statistics came from.
    """
    plain = asdict(recipe)
    data = {name: value for name, value in plain["data"].items() if name not in _PLACES_OF_DATA}
    # Files that list the parts are paths too; the parts that they gave are in the fingerprint.
    data["split"] = {name: value for name, value in data["split"].items() if name != "lists"}
    inputs = {name: value for name, value in plain["input"].items() if name != "batch_size"}
    parts = {name: plain[name] for name in _PARTS_OF[protocol]}
    settings: dict[str, Any] = json_values(
        {"data": data, "input": inputs, "fusion": recipe.fusion, **parts, "reader": dict(reader)}
    )
    return settings


def result_id(setting: "Setting", features: str, settings: Mapping[str, Any]) -> str:
    """Hash all that a result should follow from: checkpoint, data, features, protocol, choices and seed."""
    known = {
        "checkpoint": setting.checkpoint_hash,
        "data": setting.data.fingerprint,
        "features": features,
        "protocol": setting.protocol,
        "settings": settings,
        "seed": setting.recipe.seed,
    }
    text = json.dumps(known, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode(), digest_size=_ID_BYTES).hexdigest()


def ground_notes(evidence: Evidence) -> tuple[str, ...]:
    """Say where test samples share ground, because then they are not independent and are resampled together."""
    count, num_grounds = len(evidence.samples), len(set(evidence.groups))
    if not evidence.groups:
        return () if count > 1 else ("the test is one sample, which has no interval",)
    if num_grounds == 1:
        return (f"all {count} predictions of the test are of one piece of ground, which has no interval",)
    return (f"intervals resample {num_grounds} independent images, places or blocks; {count} predictions are of them",)
