"""How numbers as files store them become the input of one network: encoding, statistics and bands, joined."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyband.arrays import Bool, Num
from anyband.data.harmonise import Normalisation, Standardiser, normalisation_for, stretched, to_physical
from anyband.data.resample import apply, whole_footprint
from anyband.errors import CatalogueError, InputError, StoreError, nearest_name
from anyband.files import parse_yaml
from anyband.models.checkpoint import Checkpoint
from anyband.models.inputs import ImageBatch
from anyband.sensors.assignment import Assignment, AssignmentRules, assign
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import BandStatistics, Sensor, sensor_from_dict

__all__ = [
    "InputSpec",
    "checkpoint_sensor",
    "checkpoint_sensors",
    "input_spec_for",
    "joined_batches",
    "read_statistics",
]

_TRAINED = "statistics of the checkpoint"
# Older torch (seen with 2.7) can't index unsigned numbers of more than 8 bits; the next larger signed type holds them.
_SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64}


@dataclass(frozen=True, kw_only=True, eq=False)
class InputSpec:
    """How images of one sensor become the input of one network, for training, encoding and evaluating."""

    sensor: Sensor
    statistics: Normalisation
    """Of the sensor's bands, at least of those that are used."""
    assignment: Assignment
    """Of the bands to trained ranges; says which are used."""
    statistics_source: str

    @cached_property
    def normalisation(self) -> Normalisation:
        """Encoding and statistics of the network's input, in its order; a stem may use a band twice."""
        used = [self.assignment.requested[band] for band in self.assignment.kept_index]
        return self.statistics.at([self.statistics.bands.index(name) for name in used])

    @property
    def from_checkpoint(self) -> bool:
        """Whether the statistics are those that the checkpoint was trained with."""
        return self.statistics_source == _TRAINED

    @property
    def support(self) -> dict[str, float]:
        """How well the trained ranges back each of the sensor's bands, 0 to 1."""
        return dict(zip(self.assignment.requested, self.assignment.support, strict=True))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know: statistics, encoding, and every band that is not exactly known."""
        return f"{self.sensor.name}: {self.normalisation.source}", *self.assignment.report().splitlines()

    def image_batch(
        self,
        dn: Num[Tensor, "batch band row col"],
        valid: Bool[Tensor, "batch band row col"] | None = None,
        *,
        img_size: int | None = None,
    ) -> ImageBatch:
        """Make network input of digital numbers: standardised images of the bands that are used.

        Args:
            valid: which pixels have data; None: all but the sensor's nodata. Without a physical value, as NaN, they are
                missing in both cases.
            img_size: side to which whole images are resized (bicubic, anti-aliased); None: as they are.

        Returns:
            `valid` is None where every pixel has data.

        Raises:
            InputError: another number of bands.
        """
        names, nodata = self.sensor.band_names, self.sensor.nodata
        if dn.shape[1] != len(names):
            shown = ", ".join(names) if len(names) <= 16 else f"{names[0]} … {names[-1]}"
            raise InputError(
                f"the array has {dn.shape[1]} bands, but {len(names)} of '{self.sensor.name}' are meant "
                f"({shown}); name the bands of the array, in its order, with `bands`"
            )
        kept = list(self.assignment.kept_index)
        dn = dn.to(_SIGNED.get(dn.dtype, dn.dtype))[:, kept]
        known = torch.isfinite(to_physical(dn, self.normalisation))
        if valid is not None:
            known = known & valid[:, kept]
        elif nodata is not None and nodata == nodata:
            known = known & (dn != nodata)
        seen: Tensor | None = None if bool(known.all()) else known
        pixels = Standardiser(self.normalisation, device=dn.device)(dn, seen)
        if img_size is not None and dn.shape[2:] != (img_size, img_size):
            whole = whole_footprint(len(dn), grid=(dn.shape[2], dn.shape[3]))
            pixels, seen = apply(pixels, seen, whole, img_size=img_size)
        mixing = torch.from_numpy(self.assignment.mixing).to(pixels.device, torch.float32)
        return ImageBatch(pixels=pixels, valid=seen, mixing=mixing)


def checkpoint_sensor(checkpoint: Checkpoint, sensor: str | Sensor) -> Sensor:
    """Find a sensor in the catalogue, a YAML file, or among those of a checkpoint; `CatalogueError` offers a name."""
    try:
        return sensor if isinstance(sensor, Sensor) else get_sensor(sensor)
    except CatalogueError:
        if sensor not in checkpoint.sensors:
            raise
    return sensor_from_dict(checkpoint.sensors[str(sensor)])


def checkpoint_sensors(checkpoint: Checkpoint) -> dict[str, Sensor]:
    """Give the sensors that a checkpoint was trained on, by name."""
    return {name: sensor_from_dict(raw) for name, raw in checkpoint.sensors.items()}


def input_spec_for(
    checkpoint: Checkpoint,
    sensor: Sensor,
    *,
    rules: AssignmentRules,
    encoding: str | None = None,
    statistics: Mapping[str, BandStatistics] | None = None,
) -> InputSpec:
    """Work out how images of a sensor become the input of a checkpoint's network.

    Statistics (physical units, percentiles) are those given, else those that the checkpoint was trained with for this
    sensor, else the catalogue's. They are never mixed: one source has all bands. A checkpoint that was trained with
    another stretch (`data.stretch`) has it applied to statistics from elsewhere. One with a stem of three bands reads
    those that `stem_bands` chooses.

    Raises:
        AssignmentError: a band can't be expressed by the trained ranges.
        CatalogueError: an encoding is unknown, or no source has statistics for all bands.
    """
    assignment = assign(sensor, checkpoint.ranges, rules)
    used, source = assignment.sensor, "statistics given by the caller"
    if statistics is None:
        trained: dict[str, BandStatistics] = {}
        if (stored := checkpoint.normalisations.get(used.name)) is not None:
            known = Normalisation.from_dict(stored)
            for band, p01, p99, mean, std in zip(known.bands, known.p01, known.p99, known.mean, known.std, strict=True):
                trained[band] = BandStatistics(p01=p01, p99=p99, mean=mean, std=std)
        source = "statistics of the catalogue"
        if all(name in trained for name in used.band_names):
            statistics, source = trained, _TRAINED
        elif missing := [band.name for band in used.bands if band.statistics is None]:
            shown = ", ".join(missing[:8]) + " …" * (len(missing) > 8)
            raise CatalogueError(
                f"no normalisation statistics for {len(missing)} of {len(used.bands)} bands of '{used.name}' "
                f"({shown}) in the checkpoint or the catalogue; give those of your images with `--statistics` "
                "(in Python `statistics`), computed there or by `anyband prepare --stats`"
            )
    normalisation = normalisation_for(used, encoding=encoding, statistics=statistics)
    # Here it is known whose statistics they are.
    normalisation = replace(normalisation, source=f"encoding '{encoding or sensor.default_encoding}'; {source}")
    if source != _TRAINED:
        data = (checkpoint.recipe or {}).get("data")
        if isinstance(data, dict) and data.get("stretch") == "two_sigma":
            normalisation = stretched(normalisation)
    return InputSpec(sensor=sensor, statistics=normalisation, assignment=assignment, statistics_source=source)


def joined_batches(batches: Sequence[ImageBatch]) -> ImageBatch:
    """Put batches of one input spec and one size into one, in order."""
    valid = None
    if any(batch.valid is not None for batch in batches):
        valid = torch.cat(
            [torch.ones_like(one.pixels, dtype=torch.bool) if one.valid is None else one.valid for one in batches]
        )
    return ImageBatch(pixels=torch.cat([batch.pixels for batch in batches]), valid=valid, mixing=batches[0].mixing)


_KEYS = {"p01", "p99", "mean", "std"}


def read_statistics(source: Path, sensor: Sensor) -> dict[str, BandStatistics]:
    """Read the statistics of a sensor's bands from a chip store, or from a JSON or YAML file: bands → `p01`, `p99`
    (physical units), `mean` and `std` (of the scaled values), or sensors → such maps. Where they are missing or wrong:
    `StoreError`, `CatalogueError`."""
    found: Mapping[str, BandStatistics]
    if source.is_dir():
        from anyband.data.store import ChipStore

        known = ChipStore.open(source).statistics
        if sensor.name not in known:
            raise StoreError(
                f"store '{source}' has no statistics of sensor '{sensor.name}' ({', '.join(known) or 'none at all'}); "
                f"compute them with `anyband prepare --stats {source}`"
            )
        found = known[sensor.name]
    else:
        found = _from_file(source, sensor)
    missing = [name for name in sensor.band_names if name not in found]
    if missing:
        raise CatalogueError(
            f"'{source}' has no statistics of band '{missing[0]}' of '{sensor.name}' "
            f"({len(missing)} missing; it has {', '.join(list(found)[:16]) or 'none'})"
        )
    return {name: found[name] for name in sensor.band_names}


def _from_file(path: Path, sensor: Sensor) -> Mapping[str, BandStatistics]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise CatalogueError(f"cannot read statistics from '{path}': {problem.strerror or problem}") from problem
    except UnicodeDecodeError as problem:
        raise CatalogueError(f"statistics are JSON or YAML in UTF-8; '{path}' is not: {problem}") from problem
    if path.suffix.lower() == ".json":
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise CatalogueError(f"'{path}' is not valid JSON: {problem}") from problem
    else:
        entries = parse_yaml(text, name=str(path), error=CatalogueError)
    if not isinstance(entries, dict):
        raise CatalogueError(f"'{path}' must map bands to p01, p99, mean and std; found {type(entries).__name__}")
    entries = entries.get(sensor.name, entries)
    if not isinstance(entries, dict):
        raise CatalogueError(f"'{path}' must map bands of '{sensor.name}' to p01, p99, mean and std; found {entries!r}")
    return {str(band): _band_statistics(entry, path, str(band)) for band, entry in entries.items()}


def _band_statistics(entry: Any, path: Path, band: str) -> BandStatistics:
    keys = set(entry) if isinstance(entry, dict) else set()
    for key in sorted(keys - _KEYS, key=str):
        raise CatalogueError(f"'{path}': band '{band}' has an unknown key '{key}'{nearest_name(str(key), _KEYS)}")
    numbers = {key: one for key in keys if isinstance(one := entry[key], int | float) and not isinstance(one, bool)}
    if set(numbers) != _KEYS:
        raise CatalogueError(f"'{path}': band '{band}' needs the numbers p01, p99, mean and std")
    return BandStatistics(**{key: float(value) for key, value in numbers.items()})
