"""How numbers as files store them become the input of one network: encoding, statistics and bands, joined."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from anyband.arrays import Array, Bool, Num
from anyband.data.harmonise import (
    Normalisation,
    Standardiser,
    count_statistics,
    normalisation_for,
    stretched,
)
from anyband.data.resample import apply, whole_footprint
from anyband.encode.metadata import ImageArray
from anyband.errors import CatalogueError, InputError, StoreError, counted, nearest_name
from anyband.files import parse_yaml
from anyband.models.checkpoint import Checkpoint
from anyband.models.inputs import ImageBatch
from anyband.rasters.reader import said_once
from anyband.sensors.assignment import Assignment, AssignmentRules, assign
from anyband.sensors.catalogue import find_band, get_sensor
from anyband.sensors.sensor import BandStatistics, Sensor, sensor_from_dict
from anyband.sensors.values import ValueCheck, in_first_words, sampled

__all__ = [
    "Doubts",
    "GivenImage",
    "InputSpec",
    "check_bands",
    "checkpoint_sensor",
    "checkpoint_sensors",
    "chosen_statistics",
    "explained",
    "given_image",
    "image_tensors",
    "input_spec_for",
    "joined_batches",
    "named_bands",
    "read_statistics",
    "tiled",
    "warned",
    "with_data",
]

Doubts = list[tuple[str, dict[str, str]]]
"""(name of an image, kind → sentence) of values that cannot be."""

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
    checkpoint_notes: tuple[str, ...] = ()

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
        """What a user should know: statistics, encoding, every band that is not exactly known, and of the weights."""
        statistics = f"{self.sensor.name}: {self.normalisation.source}"
        return statistics, *self.assignment.report().splitlines(), *self.checkpoint_notes

    def doubts(
        self,
        names: Sequence[str],
        dn: Num[Tensor, "batch band row col"],
        valid: Bool[Tensor, "batch band row col"] | None = None,
    ) -> Doubts:
        """Find images with values that cannot be what is declared, or are none of the statistics; see `ValueCheck`.
        `dn` and `valid` are those of `image_batch`."""
        some = sampled(dn.detach())
        few = (some.float() if some.dtype == torch.bfloat16 else some).cpu().numpy()
        known = few != self.sensor.nodata if valid is None else sampled(valid).cpu().numpy()
        index, check = self._value_check
        said: list[dict[str, str]] = [{} for _ in names]
        for kind, (sentence, images) in check(few[:, index], known[:, index]).items():
            for image in images:
                said[image][kind] = sentence
        return [(name, one) for name, one in zip(names, said, strict=True) if one]

    @cached_property
    def _value_check(self) -> tuple[list[int], ValueCheck]:
        used = self.sensor.select(self.statistics.bands)
        limits = list(zip(self.statistics.p01, self.statistics.p99, strict=True))
        index = [self.sensor.band_names.index(name) for name in self.statistics.bands]
        return index, ValueCheck(used, self.statistics.encodings, limits)

    def image_batch(
        self,
        dn: Num[Tensor, "batch band row col"],
        valid: Bool[Tensor, "batch band row col"] | None = None,
        *,
        img_size: int | None = None,
    ) -> ImageBatch:
        """Make network input of digital numbers: standardised images of the bands that are used.

        `valid` says which pixels have data; None: all but the sensor's nodata. What has no physical value, as NaN, is
        missing in both cases. Whole images are resized to `img_size` (bicubic, anti-aliased); None: they stay. In the
        result `valid` is None where every pixel has data. `InputError`: another number of bands.
        """
        check_bands(self.sensor, dn.shape[1:])
        kept = list(self.assignment.kept_index)
        dn = dn.to(_SIGNED.get(dn.dtype, dn.dtype))[:, kept]
        given = with_data(dn, self.sensor.nodata) if valid is None else valid[:, kept]
        pixels, missing = Standardiser(self.normalisation, device=dn.device)(dn, given)
        seen = None if missing is None or not bool(missing.any()) else ~missing
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
    those that `stem_bands` chooses. `AssignmentError`: the trained ranges can't express a band; `CatalogueError`: an
    encoding is unknown, or no source has statistics for all bands.
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
                f"no normalisation statistics for {len(missing)} of {counted(len(used.bands), 'band')} of "
                f"'{used.name}' ({shown}) in the checkpoint or the catalogue; give those of your images with "
                "`--statistics` (in Python `statistics`), computed there or by `anyband prepare --stats`"
            )
    normalisation = normalisation_for(used, encoding=encoding, statistics=statistics)
    # Here it is known whose statistics they are.
    normalisation = replace(normalisation, source=f"encoding '{encoding or sensor.default_encoding}'; {source}")
    if source != _TRAINED:
        data = (checkpoint.recipe or {}).get("data")
        if isinstance(data, dict) and data.get("stretch") == "two_sigma":
            normalisation = stretched(normalisation)
    return InputSpec(
        sensor=sensor,
        statistics=normalisation,
        assignment=assignment,
        statistics_source=source,
        checkpoint_notes=checkpoint.notes,
    )


_log = logging.getLogger("anyband")
_logged: set[str] = set()


def warned(doubts: Doubts) -> tuple[str, ...]:
    """Make notes of values that cannot be; each kind of a sensor is logged too, once a process."""
    notes = said_once(in_first_words(doubts))
    for kind, note in zip(dict.fromkeys(kind for _, said in doubts for kind in said), notes, strict=True):
        if kind not in _logged:
            _log.warning(note)
            _logged.add(kind)
    return notes


@contextmanager
def explained(doubts: Doubts) -> Iterator[None]:
    """Say beside the error of an image without data which of its values cannot be."""
    try:
        yield
    except InputError as problem:
        for name, said in doubts:
            if str(problem).startswith(f"{name} has no pixel with data"):
                raise InputError(f"{problem}; {'; '.join(said.values())}") from problem
        raise


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


# Arrays as people hold them.

GivenImage = tuple[Array | Tensor, Array | None, tuple[str, ...], tuple[str, ...]]
"""Numbers; which of them have data, by a mask, NaN or a tag of their own (None: nothing is said); names of the bands;
and what a user should know."""

_AXES = {
    "band": ("band", "bands", "channel", "channels", "wavelength", "wavelengths", "variable"),
    "y": ("y", "lat", "latitude", "row", "rows", "northing", "yc"),
    "x": ("x", "lon", "longitude", "col", "cols", "column", "columns", "easting", "xc"),
}
_UNNAMED = re.compile(r"dim_\d+")
_NODATA_TAGS = ("_FillValue", "missing_value", "nodata", "nodatavals")
_UNSCALED = {"scale_factor": 1.0, "add_offset": 0.0}


def given_image(given: ImageArray, *, name: str = "the array", truth: bool = False) -> GivenImage:
    """Take an image, or with `truth` what is valid of one, as people hold it; `InputError` says what is wanted."""
    if isinstance(given, list | tuple):
        return _joined_images([given_image(one, name=f"an item of {name}", truth=truth) for one in given], name)
    if all(hasattr(given, word) for word in ("dims", "coords", "attrs", "values")):
        return _labelled_image(given, name, truth)
    if not isinstance(given, Tensor | Array):
        raise _no_array(given, name)
    _check_numbers(given, name, truth)
    if isinstance(given, np.ma.MaskedArray):
        return np.asarray(given.data), ~np.ma.getmaskarray(given), (), ()
    return given, None, (), ()


def _no_array(given: object, name: str) -> InputError:
    shown = f"'{given}' ({type(given).__name__})" if isinstance(given, str | Path) else type(given).__name__
    of_file = "; read a file first, for example with rasterio.open(path).read(masked=True), or use `anyband embed`"
    return InputError(
        f"{name} must be a NumPy array, a torch tensor or an xarray DataArray of (band, row, col), or a list of such; "
        f"found {shown}{of_file if isinstance(given, str | bytes | Path) else ''}"
    )


def _check_numbers(given: Array | Tensor, name: str, truth: bool) -> None:
    dtype = str(given.dtype).removeprefix("torch.")
    if truth and dtype != "bool":
        raise InputError(f"{name} holds {dtype}; give truth values, for example `valid != 0`")
    if dtype.startswith("complex"):
        raise InputError(
            f"{name} holds complex numbers ({dtype}), which have no one meaning as an image; give their amplitude or "
            "power, for example np.abs(array), with the encoding that it has"
        )
    is_number = given.dtype.kind in "iuf" if isinstance(given, Array) else dtype != "bool"
    if not (truth or is_number):
        mask = "; a mask is given as `valid`" if dtype == "bool" else ""
        raise InputError(f"{name} holds {dtype}, which is no number of an image{mask}; give integers or floats")


def _joined_images(parts: Sequence[GivenImage], name: str) -> GivenImage:
    """Stack images, or bands of one, with their masks."""
    shapes = list(dict.fromkeys(tuple(part[0].shape) for part in parts))
    if len(shapes) != 1:
        shown = ", ".join(map(str, shapes[:3])) or "nothing"
        raise InputError(f"{name} is a list of arrays of one shape; found {shown}: give equal ones, or one at a time")
    numbers: Array | Tensor
    tensors = [part[0] for part in parts if isinstance(part[0], Tensor)]
    numbers = torch.stack(tensors) if len(tensors) == len(parts) else np.stack([np.asarray(one[0]) for one in parts])
    known = None
    if any(part[1] is not None for part in parts):
        known = np.stack([np.ones(shapes[0], bool) if part[1] is None else part[1] for part in parts])
    if len({part[2] for part in parts}) > 1:
        raise InputError(f"{name} is a list whose images name different bands; give them in one order")
    return numbers, known, parts[0][2], tuple(dict.fromkeys(note for part in parts for note in part[3]))


def _labelled_image(image: Any, name: str, truth: bool) -> GivenImage:
    """Take a DataArray: its axes by their names, what its tags call missing, and the names of its bands."""
    dims = tuple(map(str, image.dims))
    if callable(image.values):
        raise InputError(f"{name} is a Dataset of several variables; give one array: dataset.to_array('band')")
    values = np.asarray(image.values)
    _check_numbers(values, name, truth)
    roles = [next((role for role, names in _AXES.items() if dim.casefold() in names), dim) for dim in dims]
    if not all(_UNNAMED.fullmatch(dim) for dim in dims):
        others = [role for role in roles if role not in _AXES]
        if len(others) > 1 or len(set(roles)) < len(roles) or not {"y", "x"} <= set(roles):
            raise InputError(
                f"{name} has the dimensions {', '.join(dims)}, which do not say what is band, y and x; rename them, "
                "for example image.rename(old='band'), or select one of the others"
            )
        order = [*others, *(role for role in _AXES if role in roles)]
        values = values.transpose([roles.index(role) for role in order])
        values = values if "band" in roles else np.expand_dims(values, -3)
    known = None if truth else _untagged(values, image.attrs)
    return values, known, _names_of_bands(image, dims, roles), () if truth else _scale_notes(image)


def _untagged(values: Array, tags: Mapping[str, Any]) -> Array | None:
    """Tell which values no tag calls missing; None: no tag does. NaN is missing anyway."""
    found = [number for key in _NODATA_TAGS for number in np.ravel(tags.get(key, ())).tolist()]
    missing = [number for number in found if isinstance(number, int | float) and number == number]
    # A float32 array stores its nodata rounded; compare with what it can hold.
    held = values.dtype if values.dtype.kind == "f" else np.float64
    return ~np.isin(values, np.array(missing, dtype=held)) if missing else None


def _names_of_bands(image: Any, dims: Sequence[str], roles: Sequence[str]) -> tuple[str, ...]:
    """Read the names that a DataArray gives to its bands, as a coordinate or a tag; empty where it has numbers only."""
    if "band" not in roles:
        return ()
    dim = dims[roles.index("band")]
    stood = image.coords[dim].values.tolist() if dim in image.coords else []
    tagged = image.attrs.get("long_name", ())
    for names in (stood, list(tagged) if isinstance(tagged, list | tuple) else []):
        if len(names) == image.shape[roles.index("band")] and all(isinstance(one, str) and one for one in names):
            return tuple(names)
    return ()


def _scale_notes(image: Any) -> tuple[str, ...]:
    """Say what scale a DataArray carries, because its numbers are read as the encoding says, whatever the tags say."""
    notes = []
    decoded = getattr(image, "encoding", {})
    for tags, words in (
        (image.attrs, "which is not applied"),
        (decoded, "which xarray has applied (encoding='physical' says so)"),
    ):
        found = {key: float(tags[key]) for key, usual in _UNSCALED.items() if float(tags.get(key, usual)) != usual}
        if found:
            shown = " and ".join(f"{key} {number:g}" for key, number in found.items())
            notes.append(f"the DataArray has {shown}, {words}; its numbers are read as the declared encoding says")
    return tuple(notes)


def named_bands(
    sensor: Sensor, declared: str | Sequence[str] | None, found: Sequence[str]
) -> tuple[Sensor, tuple[str, ...]]:
    """Choose a sensor's bands: the declared ones, else those that the array itself names, else all; and say where
    names and order contradict each other. `InputError` where only some names are the sensor's."""
    own: dict[str, str | None] = {}
    for name in found:
        try:
            own[name] = find_band(name, sensor).name
        except CatalogueError:
            own[name] = None
    unknown = [name for name, band in own.items() if band is None]
    shown = ", ".join(found)
    if declared is not None:
        chosen = sensor.select(declared)
        differ = bool(found) and not unknown and tuple(own.values()) != chosen.band_names
        note = f"the array names its bands {shown}; the declared {', '.join(chosen.band_names)} are taken in this order"
        return chosen, (note,) if differ else ()
    if not found:
        return sensor, ()
    if len(unknown) == len(own):
        return sensor, (f"the array names its bands {shown}, none of '{sensor.name}': its bands are taken in order",)
    if unknown:
        raise InputError(
            f"the array names its bands {shown}; '{unknown[0]}' is none of '{sensor.name}' "
            f"({', '.join(sensor.band_names)}): name the bands of the array, in its order, with `bands`"
        )
    return sensor.select(band for band in own.values() if band is not None), ()


def image_tensors(
    given: GivenImage, valid: ImageArray | None, *, nodata: float | None
) -> tuple[Num[Tensor, "*batch band row col"], Bool[Tensor, "*batch band row col"] | None]:
    """Bring images, and which pixels of them have data, to tensors of one shape; None: all but nodata and NaN.
    What the array's own mask hides is missing too, whatever `valid` says; without `valid`, so is nodata."""
    numbers, known, _, _ = given
    shape = tuple(numbers.shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(
            f"an array of shape {shape} is no image; give (band, row, col) or (batch, band, row, col), each at least 1"
        )
    dn = _as_tensor(numbers)
    dn = dn.to(_SIGNED.get(dn.dtype, dn.dtype))
    seen = None if valid is None else _valid_tensor(valid, shape).to(dn.device)
    if known is not None:
        seen = _as_tensor(known).to(dn.device) & (with_data(dn, nodata) if seen is None else seen)
    return dn, seen


def _valid_tensor(valid: ImageArray, shape: tuple[int, ...]) -> Bool[Tensor, "*any"]:
    """Bring what a user calls valid to the shape of the images: given for each pixel, or as one plane for all bands."""
    own, unmasked, _, _ = given_image(valid, name="'valid'", truth=True)
    seen = _as_tensor(own if unmasked is None else np.asarray(own) & unmasked)
    seen = seen[None] if seen.ndim == 2 and len(shape) == 3 else seen
    if tuple(seen.shape) not in (shape, (*shape[:-3], 1, *shape[-2:])):
        raise InputError(
            f"'valid' has shape {tuple(own.shape)}, the array {shape}; give one for each pixel, or a plane (row, col)"
        )
    return seen.expand(shape)


def with_data(dn: Num[Tensor, "*any"], nodata: float | None) -> Bool[Tensor, "*any"]:
    """Tell which digital numbers are not nodata, nor NaN or infinite."""
    known = torch.isfinite(dn)
    return known if nodata is None or nodata != nodata else known & (dn != nodata)


def _as_tensor(array: Array | Tensor) -> Tensor:
    """Bring numbers to torch without a copy where it can be; it takes all that NumPy and its readers leave."""
    if isinstance(array, Tensor):
        return array
    # Torch takes neither negative strides, as flips leave them, nor read-only arrays.
    whole = np.ascontiguousarray(array, dtype=_type_in_torch(array.dtype))
    return torch.from_numpy(whole if whole.flags.writeable else whole.copy())


def _type_in_torch(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Choose the type that holds numbers in torch, which takes no foreign byte order, no 16 bytes, and does little with
    64 bits without a sign."""
    rare = (dtype.kind == "f" and dtype.itemsize > 8) or (dtype.kind == "u" and dtype.itemsize == 8)
    return np.dtype(np.float64) if rare else dtype.newbyteorder("=")


def check_bands(sensor: Sensor, shape: Sequence[int]) -> None:
    """See that an array (band, row, col) has the bands that are meant; `InputError` names them, or the axis."""
    names = sensor.band_names
    if shape[0] == len(names):
        return
    shown = ", ".join(names) if len(names) <= 16 else f"{names[0]} … {names[-1]}"
    last = "; its last axis has as many: bring it to the front with np.moveaxis(array, -1, -3)"
    raise InputError(
        f"the array has {shape[0]} bands, but {len(names)} of '{sensor.name}' are meant ({shown}); name the bands of "
        f"the array, in its order, with `bands`{last if shape[-1] == len(names) else ''}"
    )


def chosen_statistics(
    named: Mapping[str, BandStatistics] | str | Path | None,
    sensor: Sensor,
    images: Iterable[tuple[Num[Array, "*batch band row col"], Bool[Array, "*batch band row col"] | None]],
    *,
    encoding: str | None = None,
) -> Mapping[str, BandStatistics] | None:
    """Get the statistics that a user names: `scene` counts those of `images`, a chip store or a file holds them; values
    and None stay as they are."""
    if named is None or isinstance(named, Mapping):
        return named
    if named == "scene":
        return count_statistics(images, sensor, encoding=encoding)
    return read_statistics(Path(named), sensor)


def tiled(
    dn: Num[Tensor, "image band row col"], known: Bool[Tensor, "image band row col"], tile: tuple[int, int]
) -> tuple[Num[Tensor, "tile band row2 col2"], Bool[Tensor, "tile band row2 col2"], tuple[int, int]]:
    """Cut images into tiles (height, width), row by row, image by image, and tell how many rows and columns of them
    each has; beyond the edges nothing has data."""
    height, width = tile
    rows, cols = -(-dn.shape[2] // height), -(-dn.shape[3] // width)
    margin = (0, cols * width - dn.shape[3], 0, rows * height - dn.shape[2])
    whole = (functional.pad(one, margin) for one in (dn, known))
    dn, known = (rearrange(one, "b c (i h) (j w) -> (b i j) c h w", h=height, w=width) for one in whole)
    return dn, known, (rows, cols)
