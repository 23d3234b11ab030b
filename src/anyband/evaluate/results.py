"""Rows of results: the table that keeps them, and how they are listed and compared."""

import datetime as dt
import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anyband import __version__
from anyband.arrays import Array, Bool, Shaped
from anyband.errors import AnybandError, InputError, counted, nearest_name
from anyband.evaluate.features import Context, Result
from anyband.evaluate.metrics import (
    COLUMN_TITLES,
    METRICS,
    METRICS_OF,
    NUM_RESAMPLES,
    MetricName,
    Predictions,
    Score,
    interval,
    metric_of,
    resample,
    score_notes,
    score_text,
    scores_of,
    value_of,
)
from anyband.evaluate.recipe import Protocol
from anyband.files import check_target, held, whole_file, whole_number
from anyband.labelled.samples import TaskKind
from anyband.models.checkpoint import checkpoint_hash, locate
from anyband.rasters.reader import said_once

__all__ = [
    "Difference",
    "ResultRow",
    "append_results",
    "difference",
    "difference_text",
    "find_row",
    "flat_settings",
    "grouped",
    "json_values",
    "notes_of_groups",
    "paired",
    "read_results",
    "result_rows",
    "row_to_dict",
    "short_id",
    "table_of",
]

_SHORT_LETTERS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultRow:
    """One result on the test samples, as it stands in the table."""

    id: str
    """Hash of all that the result should follow from; with `-2` where another run of it gave other scores."""
    made: dt.datetime
    """When, UTC."""
    recipe: str
    protocol: str
    features: str
    """`encoder`, `untrained encoder`, or the name of a baseline."""
    width: int
    """Numbers a sample, or a pixel of a map of features."""
    checkpoint: str
    checkpoint_hash: str
    data: str
    data_fingerprint: str
    """Of names, contents, labels and splits."""
    kind: TaskKind
    num_samples: Mapping[str, int]
    """Samples in train, val and test."""
    seed: int
    settings: Mapping[str, Any]
    scores: tuple[Score, ...]
    """One for each metric, the main one first."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """What validation chose, and its score there."""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By epoch: `training loss`, `validation`."""
    notes: tuple[str, ...] = ()
    version: str = __version__
    predictions: Predictions | None = None
    """None: not read."""

    def score(self, metric: MetricName) -> Score:
        """Give the score of a metric; one that the result lacks is an `InputError`."""
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
    """Find the only result whose id begins so; none, or several, are an `InputError`."""
    letters, _, run = identity.partition("-")
    parts = [(row, *row.id.partition("-")[::2]) for row in rows]
    found = [row for row, own, number in parts if letters and own.startswith(letters) and number == run]
    if len(found) == 1:
        return found[0]
    if not found:
        known = [short_id(row.id) for row in rows]
        raise InputError(
            f"no result begins with '{identity}' ({counted(len(rows), 'result')}){nearest_name(identity, known)}"
        )
    raise InputError(
        f"{len(found)} results begin with '{identity}': {', '.join(row.id for row in found[:4])}; give more letters"
    )


def flat_settings(settings: Mapping[str, Any], *, above: str = "") -> dict[str, Any]:
    """Lay settings out flat, `fit: {epochs: 5}` as `fit.epochs`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        key, is_group = f"{above}{name}", isinstance(value, Mapping) and bool(value)
        flat |= flat_settings(value, above=f"{key}.") if is_group else {key: value}
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
    values = {name: getattr(row, name) for name in row.__dataclass_fields__ if name != "predictions"}
    scores = [{**asdict(score), "definition": METRICS[score.metric].definition} for score in row.scores]
    plain: dict[str, Any] = json_values({**values, "made": row.made.isoformat(), "scores": scores})
    return plain


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
        *((name, pa.string()) for name in ("recipe", "protocol", "features")),
        ("width", pa.int64()),
        *((name, pa.string()) for name in ("checkpoint", "checkpoint_hash", "data", "data_fingerprint", "kind")),
        *((name, pa.int64()) for name in ("num_train", "num_val", "num_test", "seed")),
        ("metric", pa.string()),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        ("scores", pa.list_(_SCORE)),
        *((name, pa.string()) for name in ("settings", "chosen", "curves")),
        ("notes", pa.list_(pa.string())),
        ("version", pa.string()),
        ("evidence", pa.binary()),
    ],
    metadata={_MARK: str(_VERSION).encode()},
)


def append_results(path: Path, rows: Sequence[ResultRow]) -> tuple[list[ResultRow], tuple[str, ...]]:
    """Append results to the table, which is made where it is not; earlier rows stay, whatever happens.
    A result that stands there already with the same scores is not added again. One with the same id and other scores
    is, with a number behind its id, because that should not be: a note says so.
    Gives the rows with the ids that they have in the table, and what became of those that were not simply added. A row
    without predictions, or a file that is no table of results, is an `InputError`.
    """
    bare = [short_id(row.id) for row in rows if row.predictions is None]
    if bare:
        raise InputError(f"results {', '.join(bare)} have no predictions; read them with `predictions=True`")
    check_target(path)
    found, notes, new = [], [], []
    with held(path.with_name(f".{path.name}.lock"), wait=True):
        table = _read_table(path) if path.exists() else _SCHEMA.empty_table()
        # As texts, in which NaN equals NaN.
        listed = zip(table["id"].to_pylist(), table["scores"].to_pylist(), strict=True)
        known = {identity: json.dumps([asdict(_score(one)) for one in scores]) for identity, scores in listed}
        for row in rows:
            scores = json.dumps([asdict(one) for one in row.scores])
            runs = [identity for identity in known if identity.partition("-")[0] == row.id]
            same = next((identity for identity in runs if known[identity] == scores), None)
            identity = same or (f"{row.id}-{len(runs) + 1}" if runs else row.id)
            if same is not None:
                notes.append(f"{row.features}: stands in the table already with the same scores, as {short_id(same)}")
            elif runs:
                notes.append(
                    f"warning: {row.features} has other scores than an earlier run with equal checkpoint, data, "
                    f"choices and seed ({short_id(runs[-1])}); both are kept, this one as {short_id(identity)}"
                )
            known[identity] = scores
            found.append(replace(row, id=identity))
            if same is None:
                new.append(_to_values(found[-1]))
        if new:
            with whole_file(path) as beside:
                added = pa.Table.from_pylist(new, schema=_SCHEMA)
                how = {"compression": "zstd", "write_page_checksum": True}
                pq.write_table(pa.concat_tables([table, added]), beside, **how)
    return found, tuple(notes)


def read_results(path: Path, *, predictions: bool = False) -> list[ResultRow]:
    """Read the table, in the order in which results came; `predictions`, if wanted, are most of the file. A file that
    is not there, is no table of results, is damaged or of a newer version is an `InputError`."""
    if not path.is_file():
        raise InputError(
            f"there is no table of results '{path}'; `anyband evaluate … --results {path}` makes one, or name another"
        )
    names = [name for name in _SCHEMA.names if predictions or name != "evidence"]
    try:
        return [_from_values(values, path) for values in _read_table(path, names).to_pylist()]
    except (KeyError, TypeError, ValueError) as problem:
        if isinstance(problem, AnybandError):
            raise
        raise InputError(f"'{path}' is damaged ({problem}); restore it, or name another table") from problem


def _read_table(path: Path, columns: Sequence[str] = _SCHEMA.names) -> pa.Table:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            version = whole_number((file.schema_arrow.metadata or {}).get(_MARK, b"").decode())
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if version is None:
                raise InputError(f"'{path}' is a Parquet file, but no table of results; name another")
            if version > _VERSION:
                raise InputError(f"'{path}' was written by a newer anyband (table version {version}); update this one")
            if missing:
                raise InputError(f"'{path}' lacks the column '{missing[0]}'; restore it, or name another table")
            table = file.read(columns=list(columns))
        return table.cast(pa.schema([_SCHEMA.field(name) for name in columns], metadata=_SCHEMA.metadata))
    except (pa.ArrowException, OSError, ValueError) as problem:
        if isinstance(problem, AnybandError):
            raise
        raise InputError(
            f"'{path}' can't be read as a table of results ({problem}); restore it, or name another"
        ) from problem


def _to_values(row: ResultRow) -> dict[str, Any]:
    """Lay a row out by columns; predictions as a compressed NumPy archive, with what is not an array as JSON in it."""
    predictions, packed = row.predictions, io.BytesIO()
    assert predictions is not None
    metadata = json.dumps({name: getattr(predictions, name) for name in ("kind", "classes", "samples", "groups")})
    # Of a file's format: what the metadata are called there.
    arrays = {"facts": np.frombuffer(metadata.encode(), dtype=np.uint8), **predictions.arrays}
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    texts = {name: json_values(getattr(row, name)) for name in ("settings", "chosen", "curves")}
    return {
        **{name: getattr(row, name) for name in _SCHEMA.names if name in row.__dataclass_fields__},
        **{f"num_{split}": row.num_samples.get(split, 0) for split in ("train", "val", "test")},
        **{name: getattr(row.scores[0], name) for name in ("metric", "value", "low", "high")},
        "scores": [{**asdict(score), "definition": METRICS[score.metric].definition} for score in row.scores],
        **{name: json.dumps(value, ensure_ascii=False) for name, value in texts.items()},
        "notes": list(row.notes),
        "evidence": packed.getvalue(),
    }


def _from_values(values: Mapping[str, Any], path: Path) -> ResultRow:
    plain = {name: value for name, value in values.items() if name in ResultRow.__dataclass_fields__}
    curves = json.loads(plain["curves"])
    packed = values.get("evidence")
    return ResultRow(
        **{
            **plain,
            "num_samples": {split: values[f"num_{split}"] for split in ("train", "val", "test")},
            "scores": tuple(_score(one) for one in values["scores"]),
            "settings": json.loads(plain["settings"]),
            "chosen": json.loads(plain["chosen"]),
            "curves": {name: tuple(math.nan if one is None else one for one in curves[name]) for name in curves},
            "notes": tuple(plain["notes"]),
        },
        predictions=None if packed is None else _unpacked(packed, short_id(values["id"]), path),
    )


def _score(values: Mapping[str, Any]) -> Score:
    return Score(**{name: values[name] for name in Score.__dataclass_fields__})


def _unpacked(packed: bytes, identity: str, path: Path) -> Predictions:
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as problem:
        raise InputError(
            f"the predictions of {identity} in '{path}' is damaged ({problem}); evaluate again"
        ) from problem
    metadata = json.loads(arrays.pop("facts").tobytes().decode())
    named = {name: tuple(metadata.get(name, ())) for name in ("classes", "samples", "groups")}
    return Predictions(kind=metadata["kind"], arrays=arrays, **named)


# What a protocol does not use changes no result, so a result is not known by it.
_USED_BY: dict[Protocol, tuple[str, ...]] = {
    "knn": ("knn",),
    "linear": ("linear",),
    "finetune": ("fit",),
    "segment": ("head", "fit"),
    "change": ("head", "fit"),
    "regress": ("head", "fit"),
    "leave-one-band-out": ("measures", "knn", "linear", "head", "fit"),
}
# Where the data lie says nothing of what they are; their fingerprint and their splits do.
_PLACES_OF_DATA = ("source", "root")
_ID_BYTES = 16


def result_rows(context: Context, results: Sequence[Result]) -> list[ResultRow]:
    """Score results, and write down what they are of; the id is a hash of all that a result should follow from. That is
    as JSON values: not names, paths, nor what the protocol ignores."""
    recipe, data, made = context.recipe, context.data, dt.datetime.now(dt.UTC).replace(microsecond=0)
    plain = recipe.model_dump()
    # Files that list the splits are paths too; the splits that they gave are in the fingerprint.
    split = {name: value for name, value in plain["data"]["split"].items() if name != "lists"}
    of_data = {name: value for name, value in plain["data"].items() if name not in _PLACES_OF_DATA} | {"split": split}
    inputs = {name: value for name, value in plain["input"].items() if name != "batch_size"}
    file = plain["head"].pop("file")
    used = {name: plain[name] for name in _USED_BY[context.protocol]}
    if recipe.eval_only:
        # How a head is fitted changes nothing, nor where its file lies.
        head = plain["head"] if data.targets is None else {}
        used = {"eval_only": True, "head": {**head, "file": file and checkpoint_hash(locate(file))}}
    chosen = {"data": of_data, "input": inputs, "fusion": recipe.fusion, **used, "reader": context.reader.settings()}
    settings: dict[str, Any] = json_values(chosen)
    known: dict[str, Any] = {"checkpoint": context.checkpoint_hash, "data": data.fingerprint, "settings": settings}
    known |= {"protocol": context.protocol, "seed": recipe.seed}
    rows = []
    for result in results:
        text = json.dumps({**known, "features": result.features}, sort_keys=True, ensure_ascii=False)
        notes = (
            *data.notes,
            *said_once(data.said.items()),
            *context.reader.notes,
            *result.notes,
            *notes_of_groups(result.predictions),
            *score_notes(result.predictions),
        )
        rows.append(
            ResultRow(
                id=blake2b(text.encode(), digest_size=_ID_BYTES).hexdigest(),
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
                num_samples={str(split): count for split, count in data.num_samples.items()},
                seed=recipe.seed,
                settings=settings,
                scores=scores_of(result.predictions, seed=recipe.seed, shown=context.shown),
                chosen=json_values(result.chosen),
                curves={name: tuple(map(float, values)) for name, values in result.curves.items()},
                notes=tuple(dict.fromkeys(notes)),
                predictions=result.predictions,
            )
        )
    return rows


def notes_of_groups(predictions: Predictions) -> tuple[str, ...]:
    """Say where test samples share ground, because then they are not independent and are resampled together."""
    count, num_groups = len(predictions.samples), len(set(predictions.groups))
    if not predictions.groups:
        return () if count > 1 else ("the test is one sample, which has no interval",)
    if num_groups == 1:
        return (f"all {count} predictions of the test are of one piece of ground, which has no interval",)
    return (f"intervals resample {num_groups} independent images, places or blocks; {count} predictions are of them",)


_LONGEST_VALUE = 40


def grouped(rows: Sequence[ResultRow], metric: MetricName | None = None) -> list[list[ResultRow]]:
    """Put results of one test together, in the order in which tests first came; the best by `metric` first. None: the
    main metric of their kind. Tests without the metric are left out."""
    groups: dict[tuple[str, str, str], list[tuple[float, ResultRow]]] = {}
    for row in rows:
        name = metric or METRICS_OF[row.kind][0]
        if name in METRICS_OF[row.kind]:
            value = next((score.value for score in row.scores if score.metric == name), math.nan)
            rank = math.inf if not math.isfinite(value) else -value if METRICS[name].higher_is_better else value
            groups.setdefault((row.data, row.data_fingerprint, row.kind), []).append((rank, row))
    return [[row for _, row in sorted(some, key=itemgetter(0))] for some in groups.values()]


def table_of(
    rows: Sequence[ResultRow], metric: MetricName | None = None
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Lay the results of one test out as texts: a header, and equally many fields in each row; `metric` None: all. The
    last column says which choices are not the same in all results of a protocol: `fusion joint, seed 1`."""
    names = [metric] if metric else list(METRICS_OF[rows[0].kind])
    header = (
        "id",
        "recipe",
        "protocol",
        "features",
        *(COLUMN_TITLES[name] for name in names),
        "checkpoint",
        "differs in",
    )
    flat = [{**flat_settings(row.settings), "seed": row.seed, "checkpoint": row.checkpoint_hash[:8]} for row in rows]
    texts = []
    for row, choices in zip(rows, flat, strict=True):
        scores = {score.metric: score_text(score) for score in row.scores}
        others = [its for other, its in zip(rows, flat, strict=True) if other.protocol == row.protocol]
        varied = [name for name in choices if any(its.get(name) != choices[name] for its in others)]
        differs = ", ".join(f"{name.rpartition('.')[2]} {_short(choices[name])}" for name in varied)
        shown = (scores.get(name, "–") for name in names)
        texts.append((short_id(row.id), row.recipe, row.protocol, row.features, *shown, row.checkpoint, differs))
    if not any(row[-1] for row in texts):
        return header[:-1], tuple(row[:-1] for row in texts)
    return header, tuple(texts)


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two results on the same test samples."""

    metric: MetricName
    first: float
    second: float
    value: float
    """First less second, with its 95 % bootstrap interval."""
    low: float
    high: float
    share_above: float
    """Share of the resamples in which the first is larger, in `share_below` smaller; both 0 where none differs."""
    share_below: float
    num_samples: int

    @property
    def better(self) -> bool | None:
        """Whether the first is better by more than the choice of test samples explains; None: that is open."""
        if not (self.low > 0 or self.high < 0):
            return None
        return (self.low > 0) == METRICS[self.metric].higher_is_better


def difference(
    first: Predictions,
    second: Predictions,
    metric: MetricName | None = None,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    shown: bool = False,
) -> Difference:
    """Subtract a metric of the second result from that of the first; every resample is the same for both. Equal
    predictions have a difference of 0 with an interval of 0 to 0. `metric` is the first of the kind where None.
    Samples, in any order, classes and truths must be the same, else `InputError`."""
    other = paired(first, second)
    name = metric or METRICS_OF[first.kind][0]
    both = {which: metric_of(one.kind, one.arrays, name) for which, one in (("first", first), ("second", other))}
    drawn = resample(first, both, seed=seed, num_resamples=num_resamples, shown=shown)
    count = len(first.samples)
    values = {which: value_of(function, num_samples=count) for which, function in both.items()}
    differences = drawn["first"] - drawn["second"]
    known = differences[np.isfinite(differences)]
    low, high = interval(differences)
    return Difference(
        metric=name,
        first=values["first"],
        second=values["second"],
        value=values["first"] - values["second"],
        low=low,
        high=high,
        share_above=float((known > 0).mean()) if len(known) else 0.0,
        share_below=float((known < 0).mean()) if len(known) else 0.0,
        num_samples=count,
    )


def difference_text(found: Difference) -> str:
    """Write a difference and its interval, shares in points: `+3.1 [+0.4 to +5.8]`."""
    scale, digits = (100, "+.1f") if METRICS[found.metric].percent else (1, "+.4g")
    texts = []
    for number in (found.value, found.low, found.high):
        text = format(scale * number, digits) if math.isfinite(number) else "–"
        # What rounds to 0 has no sign.
        texts.append(text.lstrip("+-") if text != "–" and float(text) == 0 else text.replace("-", "−"))
    return f"{texts[0]} [{texts[1]} to {texts[2]}]"


def paired(first: Predictions, second: Predictions) -> Predictions:
    """Bring the second result into the order of the first one's samples. Kinds, classes, samples and truths must be the
    same, else `InputError`."""
    if first.kind != second.kind or first.classes != second.classes:
        raise InputError(f"results of {_kind(first)} and of {_kind(second)} can't be compared; take two of one task")
    only_first, only_second = set(first.samples) - set(second.samples), set(second.samples) - set(first.samples)
    if only_first or only_second:
        raise InputError(
            f"the two results are of other test samples: {len(set(first.samples) & set(second.samples))} are in both, "
            f"{len(only_first)} only in the first and {len(only_second)} only in the second, such as "
            f"'{sorted(only_first or only_second)[0]}'; evaluate both with the same data and seed"
        )
    place = {name: index for index, name in enumerate(second.samples)}
    order = np.array([place[name] for name in first.samples])
    arrays = {name: array[order] for name, array in second.arrays.items()}
    ordered = replace(second, samples=first.samples, groups=first.groups, arrays=arrays)
    differs = np.asarray(~_same(_truth(first), _truth(ordered)).reshape(len(order), -1).all(axis=1))
    if differs.any():
        sample = first.samples[int(np.flatnonzero(differs)[0])]
        raise InputError(
            f"the labels of {differs.sum()} of {counted(len(differs), 'test sample')} are not the same in both "
            f"results, such as those of '{sample}'; evaluate both with the same labels"
        )
    return ordered


def _same(first: Shaped[Array, "sample ..."], second: Shaped[Array, "sample ..."]) -> Bool[Array, "sample ..."]:
    if first.dtype.kind != "f":
        return np.asarray(first == second)
    # Sums of many pixels differ in their last digits with the order of adding.
    return np.asarray(np.isclose(first, second, rtol=1e-6, atol=1e-6 * float(np.abs(first).max())))


def _truth(predictions: Predictions) -> Shaped[Array, "sample ..."]:
    arrays = predictions.arrays
    if predictions.kind == "class_map":
        return np.asarray(arrays["confusion"].sum(axis=2))
    if predictions.kind == "number_map":
        return np.asarray(arrays["sums"][:, :3])
    return np.asarray(arrays["truth" if predictions.kind == "number" else "labels"])


def _kind(predictions: Predictions) -> str:
    classes = f" with {counted(len(predictions.classes), 'class')}" if predictions.classes else ""
    return f"kind '{predictions.kind}'{classes}"
