"""One sample of a TorchGeo data set as our records have it: images by slot, labels by position of the class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyband.data.chip_index import Split
from anyband.data.supervised.named_sets import Targets
from anyband.data.supervised.records import DENSE_KINDS, Sample, SampleImage, TaskKind
from anyband.data.supervised.torchgeo_records import ImageSlot, TorchgeoSet
from anyband.errors import InputError, ManifestError, nearest_name
from anyband.progress import progress
from anyband.sensors.sensor import Sensor
from anyband.shapes import Array, Int

__all__ = ["Items", "Reading", "class_values", "files_of", "read_sample", "targets_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """The samples of one part, as TorchGeo gives them."""

    part: Split | None
    """Which part; None: the set has none."""
    data: Any
    """Instance of TorchGeo's class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """How samples of a data set become ours."""

    one: TorchgeoSet
    """What the tables say."""
    kind: TaskKind
    """What is predicted."""
    sensors: tuple[Sensor, ...]
    """Of the slots."""
    classes: Mapping[int, str]
    """Name of each label or value; a class's number is its position here. Empty: of kinds without classes."""

    @property
    def target(self) -> str:
        """Key of the target in a sample."""
        return self.one.target or ("mask" if self.kind in DENSE_KINDS else "label")


def class_values(one: TorchgeoSet, data: Any, arguments: Mapping[str, Any]) -> dict[int, str]:
    """Give the name of each label or value of a data set, without those that are no class.

    Raises:
        ManifestError: neither the table nor the class says.
    """
    named = _attribute(data, one.classes, arguments) if isinstance(one.classes, str) else one.classes
    if isinstance(named, Mapping):
        by_value = {int(value): str(name) for value, name in named.items()}
    else:
        by_value = {value: str(name) for value, name in enumerate(named)}
    by_value = {value: name for value, name in by_value.items() if value not in one.ignore}
    if not by_value:
        raise ManifestError(f"TorchGeo's '{one.name}' does not say what its classes are")
    return by_value


def _attribute(data: Any, path: str, arguments: Mapping[str, Any]) -> Any:
    """Follow a dotted path of attributes and keys; `{name}` stands for an argument."""
    for word in path.split("."):
        key: Any = arguments[word[1:-1]] if word.startswith("{") else word
        data = data[key] if isinstance(data, Mapping) else getattr(data, str(key))
    return data


def targets_of(reading: Reading, items: Sequence[Items]) -> Targets:
    """Collect the labels of all samples, without the images where TorchGeo can give them so; None for maps.

    Raises:
        InputError: a label that is no class.
    """
    if reading.kind in DENSE_KINDS:
        return None
    found: list[Any] = []
    total = sum(len(one.data) for one in items)
    with progress(f"labels of {reading.one.name}", total) as advance:
        for one in items:
            known = _known_labels(reading, one.data)
            for index in range(len(one.data)):
                found.append(_label(known, index, reading) if known is not None else one.data[index][reading.target])
                advance(1)
    values = np.stack([np.squeeze(np.asarray(one)) for one in found])
    if values.ndim != (2 if reading.kind == "labels" else 1):
        raise InputError(f"'{reading.one.name}' gives targets of shape {values.shape[1:]}; choose one by its options")
    if reading.kind == "number":
        return values.astype(np.float64)
    if reading.kind == "labels":
        return values.astype(bool)
    return _positions(values, reading, name=reading.one.name)


def _known_labels(reading: Reading, data: Any) -> Any:
    """Find the list of labels or the method that reads one; None: there is neither."""
    return None if reading.one.targets is None else _attribute(data, reading.one.targets, {})


def _label(known: Any, index: int, reading: Reading) -> Any:
    entry = known(index) if callable(known) else known[index]
    if reading.one.targets_key is not None:
        entry = entry[reading.one.targets_key]
    names = [entry] if isinstance(entry, str) else entry
    if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
        return _from_names(names, reading)
    return entry


def _from_names(names: Sequence[str], reading: Reading) -> Any:
    """Turn names of classes, or numbers written as text, into what TorchGeo would give."""
    known = {name: value for value, name in reading.classes.items()}
    if reading.kind == "labels":
        return [name in names for name in known]
    if reading.kind == "class" and names[0] in known:
        return known[names[0]]
    try:
        return float(names[0])
    except ValueError:
        raise InputError(f"'{names[0]}' is no class of '{reading.one.name}'{nearest_name(names[0], known)}") from None


def files_of(one: TorchgeoSet, data: Any, root: Path) -> list[tuple[Path, ...]]:
    """List the files or folders of each sample; nothing where the class does not keep them."""
    if one.files is None:
        return [()] * len(data)
    entries = _attribute(data, one.files, {})
    return [tuple(_paths_in(_read_of(entries[index], one), root)) for index in range(len(data))]


def _read_of(entry: Any, one: TorchgeoSet) -> Any:
    return [entry[key] for key in one.file_keys] if isinstance(entry, Mapping) and one.file_keys else entry


def _paths_in(entry: Any, root: Path) -> list[Path]:
    if isinstance(entry, Mapping):
        entry = list(entry.values())
    if isinstance(entry, (list, tuple)):
        return [path for one in entry for path in _paths_in(one, root)]
    if not isinstance(entry, (str, Path)):
        return []
    return [path for path in (Path(entry), root / entry) if path.exists()][:1]


def read_sample(raw: Mapping[str, Any], reading: Reading, *, name: str) -> Sample:
    """Turn a sample's dictionary into images by slot, and a map where that is the target.

    Args:
        raw: TorchGeo's sample.
        reading: how.
        name: of the sample, for messages.

    Raises:
        InputError: other channels than the sensors have, a map of another shape, or values that are no class.
    """
    slots = _by_slot(raw, reading, name=name)
    images = tuple(_image(dn, one, name=name) for dn, one in zip(slots, reading.sensors, strict=True))
    if reading.kind not in DENSE_KINDS:
        return Sample(images=images)
    values = np.asarray(raw[reading.target])
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.shape != images[0].dn.shape[1:]:
        raise InputError(f"'{name}' has a map of shape {values.shape} over an image of {images[0].dn.shape[1:]}")
    if reading.kind == "number_map":
        return Sample(images=images, number_map=values.astype(np.float32))
    return Sample(images=images, class_map=_positions(values, reading, name=name))


def _image(dn: Array, sensor: Sensor, *, name: str) -> SampleImage:
    if dn.ndim != 3 or len(dn) != len(sensor.bands):
        raise InputError(
            f"'{name}' gives an image of shape {dn.shape}, sensor '{sensor.name}' has {len(sensor.bands)} bands here "
            f"({', '.join(sensor.band_names)}); say in `bands` what the channels are"
        )
    valid = np.isfinite(dn)
    if sensor.nodata is not None:
        valid &= dn != sensor.nodata
    return SampleImage(dn=dn, valid=valid, sensor=sensor)


def _by_slot(raw: Mapping[str, Any], reading: Reading, *, name: str) -> list[Array]:
    """Cut the tensors into images: channels one after the other, dates spread evenly."""
    found: list[Array] = []
    taken: dict[str, int] = {}
    for slot in reading.one.images:
        if slot.key not in raw:
            raise InputError(f"'{name}' has no '{slot.key}'; TorchGeo gives {', '.join(raw)}")
        stored = _stored(np.asarray(raw[slot.key]), slot)
        if slot.steps:
            dates = np.linspace(0, len(stored) - 1, slot.steps).round().astype(int)
            found += list(stored[dates])
            continue
        start = taken.get(slot.key, 0)
        is_shared = sum(other.key == slot.key for other in reading.one.images) > 1
        count = len(reading.sensors[len(found)].bands) if is_shared else len(stored)
        found.append(stored[start : start + count])
        taken[slot.key] = start + count
    return found


def _stored(values: Array, slot: ImageSlot) -> Array:
    """Undo what TorchGeo does to the numbers, and leave out channels that are no bands."""
    if slot.channels:
        values = values[..., list(slot.channels), :, :]
    return values if slot.factor == 1 else np.rint(values * slot.factor).astype(np.float32)


def _positions(values: Array, reading: Reading, *, name: str) -> Int[Array, "..."]:
    """Turn labels or values of a map into positions of classes; −1 where the table ignores them."""
    whole = values.astype(np.int64)
    result = np.full(whole.shape, -1, dtype=np.int64)
    for position, value in enumerate(reading.classes):
        result[whole == value] = position
    strange = (result < 0) & ~np.isin(whole, reading.one.ignore)
    if strange.any():
        raise InputError(
            f"'{name}' has the value {whole[strange].flat[0]} {strange.sum()} times, which is no class of "
            f"'{reading.one.name}' ({', '.join(map(str, list(reading.classes)[:8]))} …)"
        )
    return result
