"""Rows of results, and the file that keeps them."""

import contextlib
import datetime as dt
import fcntl
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anyband import __version__
from anyband.errors import AnybandError, InputError, OutputError, nearest_name
from anyband.evaluate.metrics import DEFINITIONS, MetricName, Score
from anyband.evaluate.predictions import Predictions, Result, scores_of
from anyband.evaluate.recipe import Protocol, TransferRecipe
from anyband.files import check_target, whole_file
from anyband.labelled.samples import TaskKind

if TYPE_CHECKING:
    from anyband.evaluate.context import Context

__all__ = [
    "Appended",
    "ResultRow",
    "append_results",
    "find_row",
    "flat_settings",
    "group_notes",
    "json_values",
    "read_results",
    "result_id",
    "result_rows",
    "row_to_dict",
    "scores_json",
    "settings_of",
    "short_id",
]

_SHORT_LETTERS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultRow:
    """One result on the test samples."""

    id: str
    """Hash of all that the result should follow from; with `-2` where another run of it gave other scores."""
    made: dt.datetime
    """When, UTC."""
    recipe: str
    """Name of the recipe."""
    protocol: str
    """What was done."""
    features: str
    """`encoder`, `untrained encoder`, or the name of a baseline."""
    width: int
    """Numbers a sample, or a pixel of a map of features."""
    checkpoint: str
    """Name of the checkpoint."""
    checkpoint_hash: str
    """Of its weights."""
    data: str
    """Name of the data."""
    data_fingerprint: str
    """Of names, contents, labels and parts."""
    kind: TaskKind
    """What is predicted."""
    num_samples: Mapping[str, int]
    """Samples in train, val and test."""
    seed: int
    """Of every draw."""
    settings: Mapping[str, Any]
    """All choices that the result depends on, as JSON values."""
    scores: tuple[Score, ...]
    """One for each metric, the main one first."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """What validation chose, and its score there."""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By epoch: `training loss`, `validation`."""
    notes: tuple[str, ...] = ()
    """What a reader should know."""
    version: str = __version__
    """Of the program."""
    predictions: Predictions | None = None
    """What was predicted for each test sample; None: not read."""

    def score(self, metric: MetricName) -> Score:
        """Give the score of a metric.

        Raises:
            InputError: the result has no such metric.
        """
        found = next((score for score in self.scores if score.metric == metric), None)
        if found is None:
            names = ", ".join(score.metric for score in self.scores)
            raise InputError(f"result {short_id(self.id)} has no metric '{metric}' ({names})")
        return found


def short_id(identity: str) -> str:
    """Shorten an id for tables: its first eight letters, and `-2` where another run has the same."""
    letters, _, run = identity.partition("-")
    return letters[:_SHORT_LETTERS] + (f"-{run}" if run else "")


def find_row(rows: Sequence[ResultRow], identity: str) -> ResultRow:
    """Find a result by its id, or by so much of its beginning that no other begins so.

    Raises:
        InputError: no result, or several.
    """
    letters, _, run = identity.partition("-")
    parts = [(row, *row.id.partition("-")[::2]) for row in rows]
    found = [row for row, own, number in parts if letters and own.startswith(letters) and number == run]
    if len(found) == 1:
        return found[0]
    if not found:
        known = [short_id(row.id) for row in rows]
        raise InputError(f"no result begins with '{identity}' ({len(rows)} results){nearest_name(identity, known)}")
    raise InputError(
        f"{len(found)} results begin with '{identity}': {', '.join(row.id for row in found[:4])}; give more letters"
    )


def flat_settings(settings: Mapping[str, Any], *, above: str = "") -> dict[str, Any]:
    """Lay settings out flat, `fit: {epochs: 5}` as `fit.epochs`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, above=f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat


def json_values(value: Any) -> Any:
    """Make plain JSON values: records become dictionaries, numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(name): json_values(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_values(one) for one in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "tolist"):  # of NumPy or torch
        return json_values(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def row_to_dict(row: ResultRow) -> dict[str, Any]:
    """Make plain JSON values of all but the predictions, with the definition of every metric."""
    values = {name: getattr(row, name) for name in row.__dataclass_fields__ if name not in ("predictions", "scores")}
    scores = [{**asdict(score), "definition": DEFINITIONS[score.metric]} for score in row.scores]
    plain: dict[str, Any] = json_values({**values, "made": row.made.isoformat(), "scores": scores})
    return plain


def scores_json(scores: Sequence[Score]) -> str:
    """Write scores as one line of JSON, equal for equal scores."""
    return json.dumps(json_values([asdict(score) for score in scores]))


_VERSION = 1
_MARK = b"anyband_results"

_SCORE = pa.struct(
    [
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("num_samples", pa.int64()),
        ("definition", pa.string()),
    ]
)
# The main metric stands in columns of its own, so that a plain query needs no lists.
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("made", pa.timestamp("s", tz="UTC")),
        ("recipe", pa.string()),
        ("protocol", pa.string()),
        ("features", pa.string()),
        ("width", pa.int64()),
        ("checkpoint", pa.string()),
        ("checkpoint_hash", pa.string()),
        ("data", pa.string()),
        ("data_fingerprint", pa.string()),
        ("kind", pa.string()),
        ("num_train", pa.int64()),
        ("num_val", pa.int64()),
        ("num_test", pa.int64()),
        ("seed", pa.int64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("scores", pa.list_(_SCORE)),
        ("settings", pa.string()),
        ("chosen", pa.string()),
        ("curves", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("version", pa.string()),
        ("predictions", pa.binary()),
    ],
    metadata={_MARK: str(_VERSION).encode()},
)


@dataclass(frozen=True, kw_only=True)
class Appended:
    """What became of the rows that were given."""

    ids: tuple[str, ...]
    """Of each row, as it stands in the table now."""
    num_added: int
    """Rows that are new."""
    notes: tuple[str, ...]
    """Of the others, and of results that a rerun did not repeat."""


def append_results(path: Path, rows: Sequence[ResultRow]) -> Appended:
    """Append results to the table; earlier rows stay, whatever happens.

    A result that stands there already with the same scores is not added again. One with the same id and other scores
    is, with a number behind its id, because that should not be: the note says so.

    Args:
        path: of the table; made where it is not.
        rows: with their predictions.

    Raises:
        InputError: a row without predictions, or the file is no table of results, damaged, or of a newer version.
        OutputError: the file can't be written.
    """
    bare = [short_id(row.id) for row in rows if row.predictions is None]
    if bare:
        raise InputError(f"results {', '.join(bare)} have no predictions; read them with `predictions=True`")
    check_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        table = _read_table(path) if path.exists() else _SCHEMA.empty_table()
        new, appended = _sorted_out(table, rows)
        if new:
            added = pa.Table.from_pylist([_to_values(row) for row in new], schema=_SCHEMA)
            with whole_file(path) as beside:
                pq.write_table(pa.concat_tables([table, added]), beside, compression="zstd")
    return appended


def read_results(path: Path, *, predictions: bool = False) -> list[ResultRow]:
    """Read the table, in the order in which results came.

    Args:
        path: of the table.
        predictions: whether to read what was predicted for each sample, too; it is most of the file.

    Raises:
        InputError: there is no such file, or it is no table of results, damaged, or of a newer version.
    """
    if not path.is_file():
        raise InputError(
            f"there is no table of results '{path}'; `anyband evaluate … --results {path}` makes one, or name another"
        )
    names = [name for name in _SCHEMA.names if predictions or name != "predictions"]
    try:
        return [_from_values(values, path) for values in _read_table(path, names).to_pylist()]
    except (KeyError, TypeError, ValueError) as problem:
        if isinstance(problem, AnybandError):
            raise
        raise InputError(f"'{path}' is damaged ({problem}); restore it, or name another table") from problem


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process appends. The system frees the lock of a process that is killed."""
    beside = path.with_name(f".{path.name}.lock")
    try:
        file = beside.open("a")
    except OSError as problem:
        raise OutputError(f"'{beside}' can't be written ({problem.strerror}); name another table") from problem
    with file:
        with contextlib.suppress(
            OSError
        ):  # Some network disks have no locks; then one process at a time is on the user.
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_table(path: Path, columns: Sequence[str] = _SCHEMA.names) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(file.schema_arrow, columns, path)
            table = file.read(columns=list(columns))
        return table.cast(pa.schema([_SCHEMA.field(name) for name in columns], metadata=_SCHEMA.metadata))
    except (pa.ArrowException, OSError, ValueError) as problem:
        if isinstance(problem, AnybandError):
            raise
        raise InputError(
            f"'{path}' can't be read as a table of results ({problem}); restore it, or name another"
        ) from problem


def _check_schema(schema: pa.Schema, columns: Sequence[str], path: Path) -> None:
    version = (schema.metadata or {}).get(_MARK, b"").decode()
    if not version.isdecimal():
        raise InputError(f"'{path}' is a Parquet file, but no table of results; name another")
    if int(version) > _VERSION:
        raise InputError(f"'{path}' was written by a newer anyband (table version {version}); update this one")
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise InputError(f"'{path}' lacks the column '{missing[0]}'; restore it, or name another table")


def _sorted_out(table: pa.Table, rows: Sequence[ResultRow]) -> tuple[list[ResultRow], Appended]:
    """Find which rows are new; the table's own are known by id and scores."""
    known = {
        identity: scores_json([_score(one) for one in scores])
        for identity, scores in zip(table["id"].to_pylist(), table["scores"].to_pylist(), strict=True)
    }
    new, ids, notes = [], [], []
    for row in rows:
        runs = [identity for identity in known if identity.partition("-")[0] == row.id]
        same = next((identity for identity in runs if known[identity] == scores_json(row.scores)), None)
        identity = same or (f"{row.id}-{len(runs) + 1}" if runs else row.id)
        ids.append(identity)
        if same is not None:
            notes.append(f"{row.features}: stands in the table already with the same scores, as {short_id(same)}")
            continue
        if runs:
            notes.append(
                f"warning: {row.features} has other scores than an earlier run with equal checkpoint, data, choices "
                f"and seed ({short_id(runs[-1])}); both are kept, this one as {short_id(identity)}"
            )
        known[identity] = scores_json(row.scores)
        new.append(replace(row, id=identity))
    return new, Appended(ids=tuple(ids), num_added=len(new), notes=tuple(notes))


def _to_values(row: ResultRow) -> dict[str, Any]:
    assert row.predictions is not None
    plain = {name: getattr(row, name) for name in _SCHEMA.names if name in row.__dataclass_fields__}
    main = row.scores[0]
    return {
        **plain,
        **{f"num_{part}": row.num_samples.get(part, 0) for part in ("train", "val", "test")},
        **{name: getattr(main, name) for name in ("metric", "value", "low", "high")},
        "scores": [{**asdict(score), "definition": DEFINITIONS[score.metric]} for score in row.scores],
        **{name: _json(getattr(row, name)) for name in ("settings", "chosen", "curves")},
        "notes": list(row.notes),
        "predictions": _packed(row.predictions),
    }


def _from_values(values: Mapping[str, Any], path: Path) -> ResultRow:
    plain = {name: value for name, value in values.items() if name in ResultRow.__dataclass_fields__}
    packed = values.get("predictions")
    curves = json.loads(plain["curves"])
    return ResultRow(
        **{
            **plain,
            "num_samples": {part: values[f"num_{part}"] for part in ("train", "val", "test")},
            "scores": tuple(_score(one) for one in values["scores"]),
            "settings": json.loads(plain["settings"]),
            "chosen": json.loads(plain["chosen"]),
            "curves": {name: tuple(_number(value) for value in one) for name, one in curves.items()},
            "notes": tuple(plain["notes"]),
        },
        predictions=None if packed is None else _unpacked(packed, short_id(values["id"]), path),
    )


def _score(values: Mapping[str, Any]) -> Score:
    return Score(**{name: values[name] for name in Score.__dataclass_fields__})


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _json(value: Any) -> str:
    return json.dumps(json_values(value), ensure_ascii=False)


def _packed(predictions: Predictions) -> bytes:
    """Write predictions as a compressed NumPy archive, with what is not an array as JSON in it."""
    named = ("kind", "classes", "samples", "groups")
    facts = json.dumps({name: getattr(predictions, name) for name in named})
    buffer = io.BytesIO()
    arrays = {name: np.asarray(array) for name, array in predictions.arrays.items()}
    np.savez_compressed(buffer, allow_pickle=False, facts=np.frombuffer(facts.encode(), dtype=np.uint8), **arrays)
    return buffer.getvalue()


def _unpacked(packed: bytes, identity: str, path: Path) -> Predictions:
    import zipfile
    import zlib

    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as problem:
        raise InputError(
            f"the predictions of {identity} in '{path}' is damaged ({problem}); evaluate again"
        ) from problem
    facts = json.loads(arrays.pop("facts").tobytes().decode())
    named = {name: tuple(facts.get(name, ())) for name in ("classes", "samples", "groups")}
    return Predictions(kind=facts["kind"], arrays=arrays, **named)


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


def result_rows(context: "Context", results: Sequence[Result]) -> list[ResultRow]:
    """Score results and write down what they are of.

    Args:
        context: that they were found with.
        results: of the protocol, and of what it is compared with.
    """
    recipe, data, reader = context.recipe, context.data, context.reader
    settings = settings_of(recipe, context.protocol, reader=reader.settings())
    made = dt.datetime.now(dt.UTC).replace(microsecond=0)
    notes = (*data.notes, *reader.notes)
    return [
        ResultRow(
            id=result_id(context, result.features, settings),
            made=made,
            recipe=recipe.name,
            protocol=context.protocol,
            features=result.features,
            width=result.width,
            checkpoint=(recipe.checkpoint or "").rstrip("/").rsplit("/", 1)[-1],
            checkpoint_hash=context.checkpoint_hash,
            data=data.name,
            data_fingerprint=data.fingerprint,
            kind=data.kind,
            num_samples={str(part): count for part, count in data.num_samples.items()},
            seed=recipe.seed,
            settings=settings,
            scores=scores_of(result.predictions, seed=recipe.seed, shown=context.shown),
            chosen=json_values(result.chosen),
            curves={name: tuple(float(value) for value in values) for name, values in result.curves.items()},
            notes=tuple(dict.fromkeys((*notes, *result.notes, *group_notes(result.predictions)))),
            predictions=result.predictions,
        )
        for result in results
    ]


def settings_of(recipe: TransferRecipe, protocol: Protocol, *, reader: Mapping[str, Any]) -> dict[str, Any]:
    """List the choices that a result depends on, as JSON values: not names, paths, nor what the protocol ignores.

    Args:
        recipe: with all choices.
        protocol: what is done.
        reader: settings of the reader, such as where the statistics came from.
    """
    plain = recipe.model_dump()
    data = {name: value for name, value in plain["data"].items() if name not in _PLACES_OF_DATA}
    # Files that list the parts are paths too; the parts that they gave are in the fingerprint.
    data["split"] = {name: value for name, value in data["split"].items() if name != "lists"}
    inputs = {name: value for name, value in plain["input"].items() if name != "batch_size"}
    parts = {name: plain[name] for name in _PARTS_OF[protocol]}
    settings: dict[str, Any] = json_values(
        {"data": data, "input": inputs, "fusion": recipe.fusion, **parts, "reader": dict(reader)}
    )
    return settings


def result_id(context: "Context", features: str, settings: Mapping[str, Any]) -> str:
    """Hash all that a result should follow from: checkpoint, data, features, protocol, choices and seed."""
    known = {
        "checkpoint": context.checkpoint_hash,
        "data": context.data.fingerprint,
        "features": features,
        "protocol": context.protocol,
        "settings": settings,
        "seed": context.recipe.seed,
    }
    text = json.dumps(known, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode(), digest_size=_ID_BYTES).hexdigest()


def group_notes(predictions: Predictions) -> tuple[str, ...]:
    """Say where test samples share ground, because then they are not independent and are resampled together."""
    count, num_grounds = len(predictions.samples), len(set(predictions.groups))
    if not predictions.groups:
        return () if count > 1 else ("the test is one sample, which has no interval",)
    if num_grounds == 1:
        return (f"all {count} predictions of the test are of one piece of ground, which has no interval",)
    return (f"intervals resample {num_grounds} independent images, places or blocks; {count} predictions are of them",)
