"""The chip store: where it is, and reading chips and what is known of them.

A store at `s3://bucket/path` or `gs://bucket/path` has the same keys as one in a folder, by TensorStore's drivers.
Credentials are found as TensorStore finds them: environment, profile, machine role, or none.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts

from anyband.arrays import Array, Bool, Int, Num
from anyband.errors import AnybandError, InputError, OutputError, StoreError, nearest_name
from anyband.files import whole_file
from anyband.progress import progress
from anyband.sensors.sensor import BandStatistics, Encoding, Sensor, checked, sensor_from_dict

if TYPE_CHECKING:
    from anyband.data.harmonise import Normalisation

__all__ = [
    "INDEX_SCHEMA",
    "SPLITS",
    "STORE_VERSION",
    "TENSORSTORE_ERRORS",
    "ArraySpec",
    "ChipStore",
    "ReadRows",
    "Split",
    "StoreLocation",
    "header_text",
    "partial_path",
    "reading_context",
    "statistics_to_dict",
]

# What TensorStore raises: builtins, many of them; a wait that is over is a TimeoutError, which is an OSError.
TENSORSTORE_ERRORS = (ValueError, OSError, KeyError, RuntimeError, NotImplementedError)

_DRIVERS = {"s3": "s3", "gs": "gcs"}
# Whose they are, what to check where a server does not answer, and what gives credentials.
_SERVICES = {
    "s3": (
        "Amazon S3",
        "check the URL, and --endpoint, run.endpoint or AWS_ENDPOINT_URL where the server is not Amazon's",
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile named by AWS_PROFILE",
    ),
    "gs": (
        "Google Cloud Storage",
        "check the URL, and TENSORSTORE_GCS_HTTP_URL where the server is not Google's",
        "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    ),
}

# chosen: a small object that is not here by then will not come; names the server instead of waiting for minutes.
_ANSWER_S = 30.0
# chosen: about 10 s in all, so that a wrong address is said soon; TensorStore's own 32 attempts take 15 minutes.
_FEW_RETRIES = {"max_retries": 5, "initial_delay": "0.5s", "max_delay": "4s"}
# chosen: about 3 minutes in all, so that a run outlives a server that starts again.
_MANY_RETRIES = {"max_retries": 10, "initial_delay": "1s", "max_delay": "32s"}
# chosen: a batch of 64 pairs, each chip a request; where an answer takes 30 ms, TensorStore's own 32 read 1,000 chips
# a second at most.
_REQUESTS = 128

_REFUSED = re.compile(
    r"PERMISSION_DENIED|UNAUTHENTICATED|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|ExpiredToken"
)


@dataclass(frozen=True, kw_only=True)
class StoreLocation:
    """A folder, or a place on object storage. Its text is the path or URL, for messages."""

    root: Path | str
    """Folder; or URL, `s3://bucket/path` or `gs://bucket/path`, without a slash at its end."""
    endpoint: str | None = None
    """Address of an S3-compatible server; None: the provider's own."""

    @classmethod
    def of(cls, where: Path | str, *, endpoint: str | None = None) -> "StoreLocation":
        """Say where a store is. The endpoint of an S3-compatible server is, by default, what AWS_ENDPOINT_URL says, or
        the provider's own; a folder has none. `StoreError` where URL and endpoint are none or do not fit."""
        text = str(where)
        if isinstance(where, Path) and re.match(r"(s3|gs):/", text):
            raise StoreError(f"'{text}' was a URL and is a path now, with one slash less; give it as text")
        if "://" not in text:
            return cls(root=Path(where))
        found = re.fullmatch(r"(s3|gs)://([^/]+)(/.*)?", text)
        if not found:
            raise StoreError(
                f"'{text}' is no place of a chip store; a folder is, or s3://bucket/path or gs://bucket/path"
            )
        if found[1] == "gs":
            address = os.environ.get("TENSORSTORE_GCS_HTTP_URL")
            if endpoint not in (None, address):
                raise StoreError(
                    "a store at gs:// is at Google's, or where TENSORSTORE_GCS_HTTP_URL says "
                    f"({address or 'not set'}); for endpoint '{endpoint}' set that variable, or use s3:// if the "
                    "server speaks S3"
                )
            endpoint = None
        else:
            endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        if endpoint is not None and not re.match(r"https?://[^/]", endpoint):
            raise StoreError(f"endpoint '{endpoint}' is no address such as http://127.0.0.1:9000")
        return cls(root=text.rstrip("/"), endpoint=endpoint and endpoint.rstrip("/"))

    def __str__(self) -> str:
        return str(self.root)

    @property
    def server(self) -> str:
        """Who keeps it, for messages."""
        if self.endpoint is not None:
            return f"the server at {self.endpoint}"
        scheme = str(self.root).split("://", 1)[0]
        address = os.environ.get("TENSORSTORE_GCS_HTTP_URL") if scheme == "gs" else None
        return f"the server at {address}" if address else _SERVICES[scheme][0]

    def file(self, key: str) -> Path | str:
        """Name a key of the store for messages."""
        return self.root / key if isinstance(self.root, Path) else f"{self.root}/{key}".rstrip("/")

    def kvstore(self, key: str) -> dict[str, Any]:
        """Make TensorStore's spec of a key of the store, such as `chips/ARRAY`; with a slash at its end all below."""
        if isinstance(self.root, Path):
            # TensorStore takes no `..`: the folder is named whole, a key stays in it.
            return {"driver": "file", "path": str(self.root.resolve() / key) + "/" * key.endswith("/")}
        scheme, rest = self.root.split("://", 1)
        bucket, _, path = rest.partition("/")
        spec: dict[str, Any] = {"driver": _DRIVERS[scheme], "bucket": bucket, "path": f"{path}/{key}".lstrip("/")}
        if scheme == "s3" and os.environ.get("AWS_ACCESS_KEY_ID"):
            # The first that TensorStore would try; asked for by name it does not complain of profiles that are missing.
            spec["aws_credentials"] = {"type": "environment"}
        if self.endpoint is not None:
            # With an endpoint requests go to ENDPOINT/BUCKET and need a region to be signed for. Servers of one's own
            # take any; Source: names and default of the AWS SDKs.
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            spec |= {"endpoint": self.endpoint, "aws_region": region}
        return spec

    def read(self, key: str) -> bytes | None:
        """Read a key whole; None: it is missing. `StoreError` of object storage, `OSError` of an unreadable file."""
        if isinstance(self.root, Path):
            file = self.root / key
            return file.read_bytes() if file.is_file() else None
        is_small = key.endswith(".json")
        result = self._answer(lambda store: store.read(key), within_s=_ANSWER_S if is_small else None)
        return None if result.state == "missing" else bytes(result.value)

    def listed_chips(self) -> set[str]:
        """List the keys below `chips/` and `valid/` on object storage; `StoreError` as `read`, and for no bucket."""
        ranges = [ts.KvStore.KeyRange(f"{kind}/", f"{kind}/\U0010ffff") for kind in ("chips", "valid")]
        return {key.decode() for wanted in ranges for key in self._answer(lambda store: store.list(wanted))}  # noqa: B023

    def write(self, key: str, content: bytes) -> None:
        """Write a key whole: it appears at once or not at all (`OutputError`)."""
        if isinstance(self.root, Path):
            with whole_file(self.root / key) as beside:
                beside.write_bytes(content)
            return
        try:
            kvstore = ts.KvStore.open(self.kvstore(""), context=reading_context(patient=False)).result()
            kvstore.write(key, content).result()
        except TENSORSTORE_ERRORS as problem:
            found = self.trouble(problem) or str(problem).split(" [")[0]
            raise OutputError(f"cannot write '{self.file(key)}': {found}") from problem

    def trouble(self, problem: Exception) -> str | None:
        """Say what is the matter with the object storage; None where it is not to blame, but the content is."""
        if isinstance(self.root, Path):
            return None
        text = str(problem).split(" [")[0]
        _, check_address, credentials = _SERVICES[self.root[:2]]
        if isinstance(problem, TimeoutError):
            return f"{self.server} gave no answer within {_ANSWER_S:g} s (asked for '{self}'); {check_address}"
        if "NoSuchBucket" in text or "bucket does not exist" in text:
            missing = f"there is no bucket '{str(self.root).split('/')[2]}' at {self.server}"
            return f"{missing} (asked for '{self}'); make it, or {check_address}"
        if refused := _REFUSED.search(str(problem)):
            return (
                f"{self.server} refuses access to '{self}' ({refused[0]}: {text}); give credentials that may: "
                f"{credentials}"
            )
        if "CURL error" in text or "retry attempts" in text or "UNAVAILABLE" in text or "aws_region" in text:
            return f"{self.server} can't be reached (asked for '{self}': {text}); {check_address}"
        return None

    def _answer(self, ask: Any, *, within_s: float | None = None) -> Any:
        """Ask the object storage and wait; its errors become ours."""
        try:
            store = ts.KvStore.open(self.kvstore(""), context=reading_context(patient=False)).result()
            return ask(store).result(timeout=within_s)
        except TENSORSTORE_ERRORS as problem:
            found = self.trouble(problem) or f"'{self}' can't be read: {str(problem).split(' [')[0]}"
            raise StoreError(found) from problem


@cache
def reading_context(*, patient: bool = True) -> ts.Context:
    """Give what all arrays share: so many requests in flight, and patience with a server; less for the first keys."""
    resources: dict[str, Any] = {}
    for driver in _DRIVERS.values():
        is_set = f"TENSORSTORE_{driver.upper()}_REQUEST_CONCURRENCY" in os.environ  # who sets it decides
        resources[f"{driver}_request_concurrency"] = {"limit": "shared" if is_set else _REQUESTS}
        resources[f"{driver}_request_retries"] = _MANY_RETRIES if patient else _FEW_RETRIES
    return ts.Context(resources)


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


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """What all chips of one array share; of an array that is written, also what it holds."""

    sensor: str
    bands: tuple[str, ...]
    height: int
    width: int
    dtype: str
    """NumPy name of the stored type, for example `uint16`."""
    encoding: Mapping[str, Encoding]
    """By band."""
    nodata: float | None
    """Digital number at places without data; None where only the `valid` array tells."""
    name: str = ""
    """Of the array and of its folder, for example `sentinel2-l2a_96x96`."""
    num_chips: int = 0
    chips_per_shard: int = 0
    """Chips in one file; chips of one shard are read faster together."""
    has_valid: bool = False
    """Whether the store keeps a `valid` array beside it."""
    digest: str = ""
    """Hash of all digital numbers and their validity."""

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON."""
        encoding = {band: asdict(entry) for band, entry in self.encoding.items()}
        return {**vars(self), "bands": list(self.bands), "encoding": encoding}


STORE_VERSION = 1

# What reading the wrong JSON raises: a key that is missing, a value of another kind, a number out of range.
_WRONG_JSON = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

# Name of the only encoding that the sensor of an array has: the one its numbers are stored in.
# chosen: enough chips in flight to keep the disk busy, few enough for a small machine.
_VALUES_PER_READ = 2**24
_STORED = "stored"

ReadRows = Callable[[ts.TensorStore, Int[Array, " chip"], Array], Callable[[], Any]]
"""Begins to read rows of an opened array into memory, and gives what waits for them."""


class ChipStore:
    """A finished chip store, open for reading. Reading is safe from several threads."""

    def __init__(self, location: StoreLocation, header: Mapping[str, Any], index: pa.Table) -> None:
        """Use `ChipStore.open`."""
        self.location = location
        self.path: Path | str = location.root
        self.version: int = header["version"]
        self.sensors: dict[str, Sensor] = {name: sensor_from_dict(entry) for name, entry in header["sensors"].items()}
        self.arrays: dict[str, ArraySpec] = {}
        for entry in header["arrays"]:
            encoding = {
                band: checked(Encoding, raw, where=f"encoding of '{band}'") for band, raw in entry["encoding"].items()
            }
            read = {**entry, "bands": tuple(entry["bands"]), "encoding": encoding}
            self.arrays[entry["name"]] = ArraySpec(**read)
        self.statistics: dict[str, dict[str, BandStatistics]] = {
            sensor: {band: BandStatistics(**entry) for band, entry in bands.items()}
            for sensor, bands in header.get("statistics", {}).items()
        }
        self.options: dict[str, Any] = header.get("options", {})
        self.report: dict[str, Any] = header.get("report", {})
        self.inputs: str | None = header.get("inputs")
        self.index = index
        self._chips = {name: self._opened("chips", name) for name in self.arrays}
        self._valid = {name: self._opened("valid", name) for name, info in self.arrays.items() if info.has_valid}
        counted = sum(info.num_chips for info in self.arrays.values())
        if counted != index.num_rows:
            raise StoreError(
                f"store '{self.path}' has {counted} chips and {index.num_rows} rows of index; prepare it again"
            )
        # Where each chip of the index stands; `valid` is read for those only that are not wholly valid.
        coded = index.column("array").combine_chunks().dictionary_encode()
        number_of = {name: number for number, name in enumerate(self.arrays)}
        numbers = np.array([number_of[name] for name in coded.dictionary.to_pylist()], dtype=np.int64)
        self.array_numbers: Int[Array, " chip"] = np.asarray(numbers[coded.indices.to_numpy()])
        self.array_rows: Int[Array, " chip"] = np.asarray(index.column("array_row").to_numpy())
        is_whole = index.column("valid_fraction").to_numpy() >= 1.0
        self._whole_rows: dict[str, Array] = {}
        for name, number in number_of.items():
            here = np.flatnonzero(self.array_numbers == number)
            here = here[np.argsort(self.array_rows[here])]  # the index must have each row once
            lack = "" if name in self._valid or is_whole[here].all() else f"of array '{name}' validity is missing"
            if not np.array_equal(self.array_rows[here], np.arange(self.arrays[name].num_chips)):
                lack = f"its index lacks chips of array '{name}'"
            if lack:
                raise StoreError(f"store '{self.path}' is broken: {lack}; prepare it again, or copy it again")
            self._whole_rows[name] = is_whole[here]
        self._check_shards()

    def _check_shards(self) -> None:
        """Look for each shard that must be there, because a missing one would read as zeros, or as valid."""
        root = self.location.root
        listed = None if isinstance(root, Path) else self.location.listed_chips()
        for info in self.arrays.values():
            partial = np.unique(np.flatnonzero(~self._whole_rows[info.name]) // info.chips_per_shard).tolist()
            shards = [("chips", shard) for shard in range(-(-info.num_chips // info.chips_per_shard))]
            for kind, shard in (*shards, *(("valid", shard) for shard in partial)):
                key = f"{kind}/{info.name}/c/{shard}/0/0/0"
                if not (Path(root, key).is_file() if listed is None else key in listed):
                    file, again = self.location.file(key), "prepare it again" if listed is None else "copy it again"
                    raise StoreError(f"store '{self.path}' is incomplete: '{file}' is missing; {again}")

    @classmethod
    def open(cls, path: Path | str, *, endpoint: str | None = None) -> "ChipStore":
        """Open a store and check that it is whole.

        `path` is a folder or a URL, `s3://bucket/path` or `gs://bucket/path`; `endpoint` is the address of an
        S3-compatible server, None: the provider's own, or what AWS_ENDPOINT_URL says. `StoreError` where nothing is
        there, it is unfinished, broken, or of another version, or object storage refuses or can't be reached.
        """
        location = StoreLocation.of(path, endpoint=endpoint)
        header, key = _read_header(location), "index.parquet"
        try:
            content = location.read(key)
            if content is None:
                missing = location.file(key)
                raise StoreError(f"the chip store has no index: there is no '{missing}'; prepare the store again")
            index = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
            types = dict(zip(index.column_names, index.schema.types, strict=True))
            lacking = [field.name for field in INDEX_SCHEMA if types.get(field.name) != field.type]
        except (pa.ArrowException, OSError, ValueError) as problem:
            if isinstance(problem, StoreError):
                raise
            raise StoreError(
                f"the index of the chip store can't be read: '{location.file(key)}': {problem}; prepare the store again"
            ) from problem
        if lacking:
            found = f"the index '{location.file(key)}' lacks the columns {', '.join(lacking)}"
            raise StoreError(f"{found}; prepare the store again")
        try:
            return cls(location, header, index)
        except StoreError:
            raise
        except (AnybandError, *_WRONG_JSON) as problem:
            raise _broken(location.file("store.json"), problem) from problem

    def read(
        self,
        array: str,
        rows: Sequence[int] | Num[Array, " chip"],
        *,
        out: Num[Array, "chip band row col"] | None = None,
        how: ReadRows = lambda opened, rows, out: ts.array(out, copy=False).write(opened[rows]).result,
    ) -> tuple[Num[Array, "chip band row col"], Bool[Array, "chip band row col"] | None]:
        """Read chips of an array, in digital numbers of their stored type and all in one go, and where they are data
        (None: everywhere).

        Rows come in any order, one may stand more than once; `out` is memory to fill; `how` reads rows of an opened
        array, for example `OpenShards.read`. `StoreError` where there is no such array or row, or a file is damaged.
        """
        if array not in self.arrays:
            raise self._no_array(array)
        info, wanted = self.arrays[array], np.asarray(rows, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < info.num_chips):
            raise StoreError(
                f"array '{array}' has rows 0 to {info.num_chips - 1}, asked for {wanted.min()} to {wanted.max()}"
            )
        shape = (len(wanted), len(info.bands), info.height, info.width)
        chips = np.empty(shape, dtype=info.dtype) if out is None else out
        reading = how(self._chips[array], wanted, chips)
        partial = np.flatnonzero(~self._whole_rows[array][wanted])
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
        if array not in self.arrays:
            raise self._no_array(array)
        info = self.arrays[array]
        sensor = self.sensors[info.sensor].select(info.bands)
        bands = tuple(replace(band, encodings=((_STORED, info.encoding[band.name]),)) for band in sensor.bands)
        return replace(sensor, bands=bands, default_encoding=_STORED, nodata=info.nodata)

    def normalisation(self, array: str, *, source: Literal["catalogue", "store"]) -> "Normalisation":
        """Join the encoding of an array with the sensor's statistics in the catalogue, or those of this store.
        `StoreError` where the store's were not computed, `CatalogueError` where the catalogue has none for a band."""
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

    def compute_statistics(self, *, shown: bool = False) -> list[str]:
        """Count the statistics of every band over the train split, and save them; give a line for each without."""
        from anyband.data.harmonise import StatisticsAccumulator, decode

        train = self.index.column("split").to_numpy(zero_copy_only=False) == "train"
        rows = [np.sort(self.array_rows[train & (self.array_numbers == number)]) for number in range(len(self.arrays))]
        counters: dict[tuple[str, str], StatisticsAccumulator] = {}
        with progress("statistics", sum(map(len, rows)), shown=shown) as advance:
            for (name, info), wanted in zip(self.arrays.items(), rows, strict=True):
                size = max(1, _VALUES_PER_READ // (len(info.bands) * info.height * info.width))
                for first in range(0, len(wanted), size):
                    dn, valid = self.read(name, wanted[first : first + size])
                    physical = decode(dn, self.array_sensor(name))
                    for index, band in enumerate(info.bands):
                        counter = counters.setdefault((info.sensor, band), StatisticsAccumulator([band]))
                        one = slice(index, index + 1)
                        counter.add(physical[:, one], None if valid is None else valid[:, one])
                    advance(len(dn))
        found, problems = dict[str, dict[str, BandStatistics]](), []
        for (sensor_name, _), counter in counters.items():
            try:
                found.setdefault(sensor_name, {}).update(counter.result())
            except InputError as problem:
                problems.append(f"{sensor_name}: {problem}")
        self.save_statistics(found)
        return problems

    def save_statistics(self, statistics: Mapping[str, Mapping[str, BandStatistics]]) -> None:
        """Put statistics (sensor → band → numbers) into the store, at once or not at all."""
        header = _read_header(self.location)
        header["statistics"] = statistics_to_dict(statistics)
        self.location.write("store.json", header_text(header).encode())
        self.statistics = {sensor: dict(bands) for sensor, bands in statistics.items()}

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

    def _no_array(self, array: str) -> StoreError:
        offer = nearest_name(array, self.arrays)
        return StoreError(f"array '{array}' is not in store '{self.path}' ({', '.join(self.arrays)}){offer}")

    def _opened(self, kind: Literal["chips", "valid"], array: str) -> ts.TensorStore:
        """Open an array, and see that it is as the header says."""
        info, key = self.arrays[array], f"{kind}/{array}"
        spec = {
            "driver": "zarr3",
            "kvstore": self.location.kvstore(key),
            # The files of a finished store never change.
            "recheck_cached_data": "open",
            "recheck_cached_metadata": "open",
            # Each chip is written, also one of zeros, and validity where data lack: what is lost is no zero, nor valid.
            "fill_missing_data_reads": False,
        }
        try:
            opening = ts.open(spec, open=True, read=True, context=reading_context())
        except ValueError as problem:
            raise StoreError(
                f"array '{self.location.file(key)}' can't be opened: {problem}; prepare the store again"
            ) from problem
        opened: ts.TensorStore = _result(opening.result, self.location, key)
        declared = (info.num_chips, len(self.array_sensor(array).bands), info.height, info.width)
        dtype = "uint8" if kind == "valid" else info.dtype
        found = (tuple(opened.shape), opened.dtype.name)
        if found != (declared, dtype):
            raise StoreError(
                f"store '{self.path}' is broken: array '{array}' is declared as {declared} of {dtype}, "
                f"found {found[0]} of {found[1]}; prepare the store again"
            )
        return opened


def partial_path(path: Path) -> Path:
    """Name the folder in which an unfinished store is kept until it becomes `path`."""
    whole = path.resolve() if path.name in ("", "..") else path
    return whole.with_name(f"{whole.name}.partial")


def header_text(header: Mapping[str, Any]) -> str:
    """Write a header as text; equal headers give equal text."""
    return json.dumps(header, indent=1, allow_nan=False) + "\n"


def statistics_to_dict(statistics: Mapping[str, Mapping[str, BandStatistics]]) -> dict[str, Any]:
    """Make plain JSON of statistics."""
    return {sensor: {band: dict(vars(entry)) for band, entry in bands.items()} for sensor, bands in statistics.items()}


def _read_header(location: StoreLocation) -> dict[str, Any]:
    try:
        content = location.read("store.json")
        if content is None:
            raise _no_store(location)
        header = json.loads(content.decode("utf-8"))
        version = header["version"]
    except StoreError:
        raise
    except (OSError, *_WRONG_JSON) as problem:
        raise _broken(location.file("store.json"), problem) from problem
    if not isinstance(version, int):
        file = location.file("store.json")
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
    if location.listed_chips():
        return StoreError(f"store '{location}' is not whole (no 'store.json'); copy it again, 'store.json' last")
    return StoreError(
        f"there is no chip store at '{location}' (no 'store.json', {location.server}); "
        f"prepare one in a folder and copy it there, for example with `aws s3 sync` or `rclone copy`"
    )


def _result(wait: Callable[[], Any], location: StoreLocation, key: str = "") -> Any:
    """Wait for TensorStore; its errors (builtin classes, many of them) become ours."""
    try:
        return wait()
    except TENSORSTORE_ERRORS as problem:
        make = "copy" if isinstance(location.root, str) else "prepare"
        damage = f"store '{location.file(key)}' can't be read: {str(problem).split(' [')[0]}; {make} it again"
        raise StoreError(location.trouble(problem) or damage) from problem


def _broken(file: Path | str, problem: Exception) -> StoreError:
    found = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem)
    return StoreError(f"'{file}' is broken ({found}); prepare the store again")
