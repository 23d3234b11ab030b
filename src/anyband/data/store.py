"""The chip store: reading chips and what is known of them."""

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts

from anyband.arrays import Array, Bool, Int, Num
from anyband.data.store_location import TENSORSTORE_ERRORS, StoreLocation, reading_context
from anyband.errors import AnybandError, StoreError, nearest_name
from anyband.sensors.sensor import BandStatistics, Encoding, Sensor, sensor_from_dict

if TYPE_CHECKING:
    from anyband.data.harmonise import Normalisation

__all__ = [
    "INDEX_SCHEMA",
    "SPLITS",
    "STORE_VERSION",
    "ArrayInfo",
    "ArraySpec",
    "ChipRecord",
    "ChipStore",
    "ReadRows",
    "Split",
    "header_text",
    "partial_path",
    "read_index",
    "statistics_to_dict",
]


Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

INDEX_SCHEMA = pa.schema(
    [
        pa.field("chip", pa.int64(), nullable=False),
        pa.field("array", pa.string(), nullable=False),
        pa.field("array_row", pa.int64(), nullable=False),
        pa.field("place", pa.string(), nullable=False),
        pa.field("cell", pa.string(), nullable=False),
        pa.field("sensor", pa.string(), nullable=False),
        pa.field("datetime", pa.timestamp("us", tz="UTC")),
        pa.field("geometry", pa.binary()),
        pa.field("crs", pa.string()),
        pa.field("transform", pa.list_(pa.float64())),
        pa.field("gsd_m", pa.float64()),
        pa.field("valid_fraction", pa.float64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source_path", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipRecord:
    """What the index says of one chip, besides where its pixels are."""

    place: str
    """Identity of the ground that images share."""
    cell: str
    """Cell of the place, for example `r000c002`; (place, cell) is one footprint."""
    sensor: str
    source_path: str
    """The image it was cut from, as the manifest names it."""
    valid_fraction: float
    """0 to 1."""
    split: Split = "train"
    datetime: dt.datetime | None = None
    """UTC; None where unknown."""
    crs: str | None = None
    """Coordinate system of `transform`; None where the image has none."""
    transform: tuple[float, float, float, float, float, float] | None = None
    """Affine coefficients (a, b, c, d, e, f) of the chip: x = a·col + b·row + c, y = d·col + e·row + f."""
    gsd_m: float | None = None
    """Of the chip's pixels; None where the image has no CRS."""
    geometry: bytes | None = None
    """Footprint as a WKB polygon in longitude and latitude; None where the image has no CRS."""
    bounds: tuple[float, float, float, float] | None = None
    """Least longitude, least latitude, greatest longitude, greatest latitude of `geometry`."""


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """What all chips of one array share."""

    sensor: str
    bands: tuple[str, ...]
    height: int
    width: int
    dtype: str
    """NumPy name of the stored type, for example `uint16`."""
    encoding: Mapping[str, Encoding]
    """How the digital numbers of each band become physical values."""
    nodata: float | None
    """Digital number at places without data; None where only the `valid` array tells."""

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON; `from_dict` is its inverse."""
        encoding = {band: asdict(entry) for band, entry in self.encoding.items()}
        return {**vars(self), "bands": list(self.bands), "encoding": encoding}


@dataclass(frozen=True, kw_only=True)
class ArrayInfo(ArraySpec):
    """One array of a store."""

    name: str
    """Of the array and of its folder, for example `sentinel2-l2a_96x96`."""
    num_chips: int
    chips_per_shard: int
    """Chips in one file; chips of one shard are read faster together."""
    has_valid: bool
    """Whether the store keeps a `valid` array beside it."""
    digest: str
    """Hash of all digital numbers and their validity."""

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "ArrayInfo":
        """Read what `to_dict` wrote."""
        encoding = {band: Encoding(**numbers) for band, numbers in entry["encoding"].items()}
        return cls(**{**entry, "bands": tuple(entry["bands"]), "encoding": encoding})


STORE_VERSION = 1

# What reading the wrong JSON raises: a key that is missing, a value of another kind, a number out of range.
_WRONG_JSON = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)

# Name of the only encoding that the sensor of an array has: the one its numbers are stored in.
_STORED = "stored"

ReadRows = Callable[[ts.TensorStore, Int[Array, " chip"], Array], Any]
"""Begins to read rows of an opened array into memory; its result waits for them."""


def _read_rows(opened: ts.TensorStore, rows: Int[Array, " chip"], out: Array) -> Any:
    return ts.array(out, copy=False).write(opened[rows])


class ChipStore:
    """A finished chip store, open for reading. Reading is safe from several threads."""

    def __init__(self, location: StoreLocation, header: Mapping[str, Any], index: pa.Table) -> None:
        """Use `ChipStore.open`."""
        self.location = location
        self.path: Path | str = location.root
        self.version: int = header["version"]
        self.sensors: dict[str, Sensor] = {name: sensor_from_dict(entry) for name, entry in header["sensors"].items()}
        infos = [ArrayInfo.from_dict(entry) for entry in header["arrays"]]
        self.arrays: dict[str, ArrayInfo] = {info.name: info for info in infos}
        self.statistics: dict[str, dict[str, BandStatistics]] = {
            sensor: {band: BandStatistics(**entry) for band, entry in bands.items()}
            for sensor, bands in header.get("statistics", {}).items()
        }
        self.options: dict[str, Any] = header.get("options", {})
        self.report: dict[str, Any] = header.get("report", {})
        self.inputs: str | None = header.get("inputs")
        self.index = index
        self._chips = {name: _open_array(location, f"chips/{name}") for name in self.arrays}
        self._valid = {
            name: _open_array(location, f"valid/{name}") for name, info in self.arrays.items() if info.has_valid
        }

    @classmethod
    def open(cls, path: Path | str, *, endpoint: str | None = None) -> "ChipStore":
        """Open a store and check that it is whole.

        Args:
            path: folder; or URL, `s3://bucket/path` or `gs://bucket/path`.
            endpoint: address of an S3-compatible server; None: the provider's own, or what AWS_ENDPOINT_URL says.

        Raises:
            StoreError: nothing is there, it is unfinished, broken, or of another version; or object storage refuses, or
                can't be reached.
        """
        location = StoreLocation.of(path, endpoint=endpoint)
        header = _read_header(location)
        index = read_index(location)
        try:
            store = cls(location, header, index)
            store._check_arrays()
            store._check_whole()
        except StoreError:
            raise
        except (AnybandError, *_WRONG_JSON) as problem:
            raise _broken(location.file("store.json"), problem) from problem
        return store

    def read(
        self,
        array: str,
        rows: Sequence[int] | Num[Array, " chip"],
        *,
        out: Num[Array, "chip band row col"] | None = None,
        how: ReadRows = _read_rows,
    ) -> tuple[Num[Array, "chip band row col"], Bool[Array, "chip band row col"] | None]:
        """Read chips in digital numbers, all in one go.

        Args:
            array: name of the array.
            rows: of the array, in any order; a row may stand more than once.
            out: memory to fill, of the right shape and type; None: new.
            how: reads rows of an opened array, for example `OpenShards.read`.

        Returns:
            The chips in their stored type, and where they are data (None: everywhere).

        Raises:
            StoreError: no such array or row, or a damaged file.
        """
        info = self._info(array)
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < info.num_chips):
            raise StoreError(
                f"array '{array}' has rows 0 to {info.num_chips - 1}, asked for {wanted.min()} to {wanted.max()}"
            )
        whole = self._whole_rows[array][wanted]
        shape = (len(wanted), len(info.bands), info.height, info.width)
        chips = np.empty(shape, dtype=info.dtype) if out is None else out
        reading = how(self._chips[array], wanted, chips)
        partial = np.flatnonzero(~whole)
        known = np.empty((len(partial), *shape[1:]), dtype=np.uint8)
        reading_known = how(self._valid[array], wanted[partial], known) if len(partial) else None
        _result(reading, self.location)
        if reading_known is None:
            return chips, None
        _result(reading_known, self.location)
        valid = np.ones(shape, dtype=bool)
        valid[partial] = known != 0
        return chips, valid

    def array_sensor(self, array: str) -> Sensor:
        """Make the sensor of an array: its bands only, with one encoding, the stored one."""
        info = self._info(array)
        sensor = self.sensors[info.sensor].select(info.bands)
        bands = tuple(replace(band, encodings=((_STORED, info.encoding[band.name]),)) for band in sensor.bands)
        return replace(sensor, bands=bands, default_encoding=_STORED, nodata=info.nodata)

    def normalisation(self, array: str, *, source: Literal["catalogue", "store"]) -> "Normalisation":
        """Join the encoding of an array with the sensor's statistics in the catalogue, or those of this store.

        Raises:
            StoreError: the store's statistics are asked for and were not computed.
            CatalogueError: the catalogue has none for a band.
        """
        from anyband.data.harmonise import normalisation_for

        sensor = self.array_sensor(array)
        statistics = None
        if source == "store":
            statistics = self.statistics.get(sensor.name)
            if statistics is None:
                raise StoreError(
                    f"store '{self.path}' has no statistics of sensor '{sensor.name}'; "
                    f"compute them with `anyband prepare --stats {self.path}`"
                )
        return normalisation_for(sensor, encoding=_STORED, statistics=statistics)

    def fingerprint(self) -> str:
        """Hash what the store holds: arrays, sensors, index. Statistics computed later do not change it."""
        header = _read_header(self.location)
        parts = {key: header[key] for key in ("version", "sensors", "arrays")}
        state = blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16)
        state.update(self.location.read("index.parquet") or b"")
        return state.hexdigest()

    def save_statistics(self, statistics: Mapping[str, Mapping[str, BandStatistics]]) -> None:
        """Put statistics (sensor → band → numbers) into the store, at once or not at all."""
        header = _read_header(self.location)
        header["statistics"] = statistics_to_dict(statistics)
        self.location.write("store.json", header_text(header).encode())
        self.statistics = {sensor: dict(bands) for sensor, bands in statistics.items()}

    @cached_property
    def array_rows(self) -> Int[Array, " chip"]:
        """Row of its array, for each chip of the index."""
        return np.asarray(self.index.column("array_row").to_numpy())

    @cached_property
    def array_numbers(self) -> Int[Array, " chip"]:
        """Position in `arrays` of its array, for each chip of the index."""
        position = {name: number for number, name in enumerate(self.arrays)}
        coded = self.index.column("array").combine_chunks().dictionary_encode()
        numbers = np.array([position[name] for name in coded.dictionary.to_pylist()], dtype=np.int64)
        return np.asarray(numbers[coded.indices.to_numpy()])

    def shards_of(self, chips: Int[Array, " chip"]) -> list[tuple[ts.TensorStore, int]]:
        """Tell which shards of which opened arrays hold some chips of the index, and say where they are data."""
        found = []
        for number, (name, info) in enumerate(self.arrays.items()):
            rows = self.array_rows[chips[self.array_numbers[chips] == number]]
            kinds = [(self._chips[name], rows)]
            if name in self._valid:
                kinds.append((self._valid[name], rows[~self._whole_rows[name][rows]]))
            for opened, wanted in kinds:
                found += [(opened, int(shard)) for shard in np.unique(wanted // info.chips_per_shard)]
        return found

    @cached_property
    def _whole_rows(self) -> dict[str, Array]:
        """Which rows of each array are wholly valid, so that `valid` is read for the others only."""
        names = self.index.column("array").to_numpy(zero_copy_only=False)
        rows = self.array_rows
        fractions = self.index.column("valid_fraction").to_numpy()
        whole = {name: np.ones(info.num_chips, dtype=bool) for name, info in self.arrays.items()}
        for name in self._valid:
            here = names == name
            whole[name][rows[here]] = fractions[here] >= 1.0
        return whole

    def _info(self, array: str) -> ArrayInfo:
        if array not in self.arrays:
            raise StoreError(
                f"array '{array}' is not in store '{self.path}' ({', '.join(self.arrays)})"
                f"{nearest_name(array, self.arrays)}"
            )
        return self.arrays[array]

    def _check_arrays(self) -> None:
        """See that the header and the arrays agree."""
        for name, info in self.arrays.items():
            sensor = self.array_sensor(name)
            declared = (info.num_chips, len(sensor.bands), info.height, info.width)
            kinds = [(self._chips[name], info.dtype)]
            kinds += [(self._valid[name], "uint8")] if info.has_valid else []
            for opened, dtype in kinds:
                found = (tuple(opened.shape), opened.dtype.name)
                if found != (declared, dtype):
                    raise StoreError(
                        f"store '{self.path}' is broken: array '{name}' is declared as {declared} of {dtype}, "
                        f"found {found[0]} of {found[1]}; prepare the store again"
                    )

    def _check_whole(self) -> None:
        """A shard that is missing would read as zeros, silently, so look for each."""
        counted = sum(info.num_chips for info in self.arrays.values())
        if counted != self.index.num_rows:
            raise StoreError(
                f"store '{self.path}' has {counted} chips and {self.index.num_rows} rows of index; prepare it again"
            )
        shards = (
            f"chips/{info.name}/c/{shard}/0/0/0"
            for info in self.arrays.values()
            for shard in range(-(-info.num_chips // info.chips_per_shard))
        )
        missing = self.location.missing(shards)
        if missing is not None:
            raise StoreError(
                f"store '{self.path}' is incomplete: '{self.location.file(missing)}' is missing; "
                f"{_again(self.location)}"
            )


def read_index(location: StoreLocation) -> pa.Table:
    """Read the index of a store and check its columns."""
    path = location.file("index.parquet")
    try:
        content = location.read("index.parquet")
        if content is None:
            raise StoreError(f"the chip store has no index: there is no '{path}'; prepare the store again")
        table = pq.read_table(pa.BufferReader(content))
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as problem:
        raise StoreError(
            f"the index of the chip store can't be read: '{path}': {problem}; prepare the store again"
        ) from problem
    missing = [name for name in INDEX_SCHEMA.names if name not in table.column_names]
    if missing:
        raise StoreError(f"the index '{path}' lacks the columns {', '.join(missing)}; prepare the store again")
    return table


def partial_path(path: Path) -> Path:
    """Name the folder in which an unfinished store is kept until it becomes `path`."""
    return path.with_name(f"{path.name}.partial")


def header_text(header: Mapping[str, Any]) -> str:
    """Write a header as text; equal headers give equal text."""
    return json.dumps(header, indent=1, allow_nan=False) + "\n"


def statistics_to_dict(statistics: Mapping[str, Mapping[str, BandStatistics]]) -> dict[str, Any]:
    """Make plain JSON of statistics."""
    return {sensor: {band: dict(vars(entry)) for band, entry in bands.items()} for sensor, bands in statistics.items()}


def _read_header(location: StoreLocation) -> dict[str, Any]:
    file = location.file("store.json")
    try:
        content = location.read("store.json")
        if content is None:
            raise _no_store(location)
        header = json.loads(content.decode("utf-8"))
        version = header["version"]
    except StoreError:
        raise
    except (OSError, *_WRONG_JSON) as problem:
        raise _broken(file, problem) from problem
    if not isinstance(version, int):
        raise StoreError(f"'{file}' is broken (its version is {version!r}); prepare the store again")
    if version != STORE_VERSION:
        advice = "update anyband" if version > STORE_VERSION else "prepare the store again"
        raise StoreError(
            f"store '{location}' has version {version}; this anyband reads version {STORE_VERSION}; {advice}"
        )
    return dict(header)


def _no_store(location: StoreLocation) -> StoreError:
    if isinstance(location.root, Path):
        if partial_path(location.root).is_dir():
            return StoreError(
                f"store '{location}' is not finished; run the same `anyband prepare` again, it goes on where it stopped"
            )
        return StoreError(f"there is no chip store at '{location}' (no 'store.json'); make one with `anyband prepare`")
    # A bucket that is missing is told by listing only.
    if location.list_keys("chips/"):
        return StoreError(f"store '{location}' is not whole (no 'store.json'); copy it again, 'store.json' last")
    return StoreError(
        f"there is no chip store at '{location}' (no 'store.json', {location.server}); "
        f"prepare one in a folder and copy it there, for example with `aws s3 sync` or `rclone copy`"
    )


def _again(location: StoreLocation) -> str:
    return "copy it again" if location.is_remote else "prepare it again"


def _open_array(location: StoreLocation, key: str) -> ts.TensorStore:
    spec = {
        "driver": "zarr3",
        "kvstore": location.kvstore(key),
        # The files of a finished store never change.
        "recheck_cached_data": "open",
        "recheck_cached_metadata": "open",
        # Each chip is written, also one of zeros; one that is gone must not be read as zeros. Valid ones take no room.
        "fill_missing_data_reads": not key.startswith("chips/"),
    }
    try:
        opening = ts.open(spec, open=True, read=True, context=reading_context())
    except ValueError as problem:
        raise StoreError(
            f"array '{location.file(key)}' can't be opened: {problem}; prepare the store again"
        ) from problem
    opened: ts.TensorStore = _result(opening, location, key)
    return opened


def _result(future: Any, location: StoreLocation, key: str | None = None) -> Any:
    """Wait for TensorStore; its errors (builtin classes, many of them) become ours."""
    try:
        return future.result()
    except TENSORSTORE_ERRORS as problem:
        where = location if key is None else location.file(key)
        damage = f"store '{where}' can't be read: {str(problem).split(' [')[0]}; {_again(location)}"
        raise StoreError(location.trouble(problem) or damage) from problem


def _broken(file: Path | str, problem: Exception) -> StoreError:
    found = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem)
    return StoreError(f"'{file}' is broken ({found}); prepare the store again")
