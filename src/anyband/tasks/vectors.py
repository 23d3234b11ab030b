"""Recorded vectors: which entries a file holds, and which bands its images have."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from anyband.errors import CatalogueError, InputError, nearest_name
from anyband.models.weight_files import WeightFile
from anyband.sensors.assignment import assign, mixing_of_ranges
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import RangeTable
from anyband.shapes import Array, Bool, Float, Int

__all__ = ["PairVectors", "SensorVectors", "Vectors", "mixing_for", "parse_vectors"]

_SENSOR_OUTPUTS = ("cls", "vit_cls", "vit_feature_map")
_PAIR_INPUTS = ("from_a", "masked", "ids_keep")
_PAIR_OUTPUTS = ("latent_a", "decoded_a", "loss_a")
_ARCHITECTURE = (
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "decoder_embed_dim",
    "decoder_depth",
    "decoder_num_heads",
    "mlp_ratio",
    "norm_eps",
)

_SENTINEL2 = (
    "aerosol",
    "blue_1",
    "green_2",
    "red_2",
    "red_edge_1",
    "red_edge_2",
    "near_infrared_2",
    "near_infrared_1",
    "near_infrared_3",
    "short_wave_infrared_1",
    "short_wave_infrared_3",
    "short_wave_infrared_4",
)
_SENTINEL1 = ("microwave_1", "microwave_2")
_RGB = ("red_1", "green_1", "blue_3")
# Bands of the images in recorded files, as ranges of the v1 table. Source: the SMARTIES v1 configuration,
# whose order of bands these are; the last two are the subset and the unseen sensor of the golden files.
_BANDS = MappingProxyType(
    {
        "s2_l2a": _SENTINEL2,
        "s2_l1c": _SENTINEL2,
        "s2": _SENTINEL2,
        "sentinel2-l2a": _SENTINEL2,
        "sentinel2-l1c": _SENTINEL2,
        "s1": _SENTINEL1,
        "sentinel1-grd": _SENTINEL1,
        "rgb": _RGB,
        "s2_subset": ("red_2", "near_infrared_1", "short_wave_infrared_3"),
        "landsat8": (
            "blue_2",
            "green_2",
            "red_2",
            "near_infrared_3",
            "short_wave_infrared_3",
            "short_wave_infrared_4",
            "thermal_infrared_1",
        ),
    }
)
_SHORT_NAMES = MappingProxyType({"s2": "s2_l2a"})


@dataclass(frozen=True, kw_only=True)
class SensorVectors:
    """Images of one sensor and what was recorded of them."""

    name: str
    """Name in the file."""
    image: Float[Tensor, "batch band row col"]
    """Normalised images."""
    bands: tuple[str, ...]
    """Names of ranges or of the sensor's bands, from the header; empty: told by the name of the sensor."""
    catalogue_name: str
    """Sensor of the catalogue, from the header; else its name in the file."""
    outputs: dict[str, Tensor]
    """Recorded outputs by kind."""


@dataclass(frozen=True, kw_only=True)
class PairVectors:
    """A plan for two recorded sensors and what was recorded of it."""

    name: str
    """Name in the file."""
    a: str
    """First sensor, by its name in the file."""
    b: str
    """Second sensor."""
    from_a: Bool[Tensor, "batch token"]
    """Where a' takes the token of a."""
    masked: Bool[Tensor, "batch token"]
    """Positions that are hidden from the encoder."""
    ids_keep: Int[Tensor, "batch visible"]
    """Positions that are not, in the order of the encoder's input."""
    outputs: dict[str, Tensor]
    """Recorded outputs by kind."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """A file of recorded vectors."""

    sensors: dict[str, SensorVectors]
    """Recorded images by name."""
    pairs: dict[str, PairVectors]
    """Recorded pairs by name."""
    architecture: dict[str, float]
    """Numbers of the network that they were recorded with, as far as the header tells."""


def parse_vectors(file: WeightFile, *, where: str) -> Vectors:
    """Sort the entries of a file into sensors and pairs.

    Args:
        file: as read.
        where: its name in messages.

    Raises:
        InputError: an entry of an unknown kind, or one that others need is missing.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for entry, tensor in file.tensors.items():
        name, dot, kind = entry.rpartition(".")
        known = ("image", *_SENSOR_OUTPUTS, *_PAIR_INPUTS, *_PAIR_OUTPUTS)
        if not dot or kind not in known:
            raise InputError(
                f"'{where}' has an entry '{entry}', whose kind is not known{nearest_name(kind, known)}; "
                f"entries are NAME.KIND with one of {', '.join(known)}"
            )
        groups.setdefault(name, {})[kind] = tensor
    pair_kinds = {*_PAIR_INPUTS, *_PAIR_OUTPUTS}
    sensors = {
        name: _sensor(name, group, file.metadata) for name, group in groups.items() if not pair_kinds & group.keys()
    }
    if not sensors:
        raise InputError(f"'{where}' has no recorded images; it needs entries such as 's2_l2a.image'")
    pairs = {name: _pair(name, group, sensors, file.metadata) for name, group in groups.items() if name not in sensors}
    return Vectors(sensors=sensors, pairs=pairs, architecture=_architecture(file.metadata, where))


def mixing_for(sensor: SensorVectors, table: RangeTable) -> Float[Tensor, "band range"]:
    """Find the share of each trained range in each recorded band.

    Names of ranges are weighted as for the published weights (`released`); others must be in the catalogue.

    Args:
        sensor: with its name or its bands.
        table: ranges of the checkpoint.

    Raises:
        InputError: the bands are not known.
        AssignmentError: the ranges of the checkpoint can't express them.
    """
    bands = sensor.bands or _BANDS.get(sensor.name.casefold(), ())
    known = {*table.range_names, *(entry.name for entry in table.declared)}
    if bands and known.issuperset(bands):
        mixing = mixing_of_ranges(bands, table, unseen="released")
    else:
        mixing = _mixing_of_catalogue(sensor, table)
    return torch.as_tensor(mixing, dtype=torch.float32)


def _mixing_of_catalogue(sensor: SensorVectors, table: RangeTable) -> Array:
    try:
        found = get_sensor(sensor.catalogue_name)
    except CatalogueError as problem:
        raise InputError(
            f"the bands of '{sensor.name}.image' are not known; write the names of its ranges, with "
            "commas, in the "
            f"header of the vectors: bands.{sensor.name} ({problem})"
        ) from problem
    if sensor.bands:
        found = found.select(sensor.bands)
    elif len(found.bands) != sensor.image.shape[1]:
        raise InputError(
            f"'{sensor.name}.image' has {sensor.image.shape[1]} bands, sensor '{found.name}' has "
            f"{len(found.bands)}; "
            f"name those that are there in the header of the vectors: bands.{sensor.name}"
        )
    return assign(found, table).mixing


def _sensor(name: str, group: Mapping[str, Tensor], metadata: Mapping[str, str]) -> SensorVectors:
    if "image" not in group:
        raise InputError(f"'{name}.{next(iter(group))}' was recorded, but '{name}.image' is missing")
    image = group["image"]
    if image.ndim != 4 or 0 in image.shape:
        raise InputError(f"'{name}.image' has shape {tuple(image.shape)}; it must be batch, band, row, column")
    return SensorVectors(
        name=name,
        image=image.float(),
        bands=_listed(metadata.get(f"bands.{name}", "")),
        catalogue_name=metadata.get(f"sensor.{name}", name),
        outputs={kind: group[kind] for kind in _SENSOR_OUTPUTS if kind in group},
    )


def _pair(
    name: str, group: Mapping[str, Tensor], sensors: Mapping[str, SensorVectors], metadata: Mapping[str, str]
) -> PairVectors:
    missing = next((kind for kind in _PAIR_INPUTS if kind not in group), None)
    if missing is not None:
        raise InputError(f"'{name}.{next(iter(group))}' was recorded, but '{name}.{missing}' is missing")
    from_a, masked, ids_keep = (group[kind] for kind in _PAIR_INPUTS)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (from_a, masked, ids_keep))
    if {from_a.ndim, masked.ndim, ids_keep.ndim} != {2}:
        raise InputError(f"from_a, masked, ids_keep of pair '{name}' must be batch × positions; found {shapes}")
    if from_a.shape != masked.shape or len(ids_keep) != len(masked):
        raise InputError(f"from_a, masked, ids_keep of pair '{name}' differ in their counts: {shapes}")
    a, b = _members(name, sensors, metadata.get(f"pair.{name}", ""))
    return PairVectors(
        name=name,
        a=a,
        b=b,
        from_a=from_a > 0,
        masked=masked > 0,
        ids_keep=ids_keep.long(),
        outputs={kind: group[kind] for kind in _PAIR_OUTPUTS if kind in group},
    )


def _members(name: str, sensors: Mapping[str, SensorVectors], declared: str) -> tuple[str, str]:
    """Find the two sensors of a pair: as the header says, or where its name splits into two recorded ones."""
    words = name.split("_")
    splits = [("_".join(words[:cut]), "_".join(words[cut:])) for cut in range(1, len(words))]
    named = _listed(declared)
    if len(named) == 2:
        splits = [(named[0], named[1])]
    for first, second in splits:
        a, b = _recorded(first, sensors), _recorded(second, sensors)
        if a is not None and b is not None:
            return a, b
    raise InputError(
        f"pair '{name}' does not name two of the recorded sensors ({', '.join(sensors)}); "
        f"write them, with a comma, in the header of the vectors: pair.{name}"
    )


def _recorded(name: str, sensors: Mapping[str, SensorVectors]) -> str | None:
    for candidate in (name, _SHORT_NAMES.get(name, name)):
        if candidate in sensors:
            return candidate
    longer = [known for known in sensors if known.startswith(f"{name}_")]
    return longer[0] if len(longer) == 1 else None


def _listed(text: str) -> tuple[str, ...]:
    """Read names from a header entry: a JSON list, or words with commas."""
    stripped = text.strip()
    if not stripped:
        return ()
    if stripped.startswith("["):
        try:
            return tuple(str(name) for name in json.loads(stripped))
        except (json.JSONDecodeError, RecursionError) as problem:
            raise InputError(f"'{text}' in the header of the vectors is no list of names: {problem}") from problem
    return tuple(name.strip() for name in stripped.split(","))


def _architecture(metadata: Mapping[str, str], where: str) -> dict[str, float]:
    try:
        return {name: float(metadata[name]) for name in _ARCHITECTURE if name in metadata}
    except ValueError as problem:
        raise InputError(f"the header of '{where}' has an architecture that is not all numbers: {problem}") from problem
