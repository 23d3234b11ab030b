"""The table of results: one Parquet file to which every evaluation appends, readable by any tool that reads Parquet.

Two evaluations may end at once: a lock beside the file lets one append after the other. The file is written beside
and renamed, so a killed process or a full disk leaves all earlier rows as they were.
"""

import contextlib
import fcntl
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anyband.errors import AnybandError, InputError, OutputError
from anyband.tasks.metric_facts import DEFINITIONS
from anyband.tasks.metrics import Score
from anyband.tasks.transfer.records import Evidence
from anyband.tasks.transfer.result_records import ResultRow, json_values, scores_json, short_id
from anyband.whole_files import check_target, whole_file

__all__ = ["Appended", "append_results", "read_results"]

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
        ("evidence", pa.binary()),
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
        rows: with their evidence.

    Raises:
        InputError: a row without evidence, or the file is no table of results, damaged, or of a newer version.
        OutputError: the file can't be written.
    """
    bare = [short_id(row.id) for row in rows if row.evidence is None]
    if bare:
        raise InputError(f"results {', '.join(bare)} have no evidence; read them with `evidence=True`")
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


def read_results(path: Path, *, evidence: bool = False) -> list[ResultRow]:
    """Read the table, in the order in which results came.

    Args:
        path: of the table.
        evidence: whether to read what was predicted for each sample, too; it is most of the file.

    Raises:
        InputError: there is no such file, or it is no table of results, damaged, or of a newer version.
    """
    if not path.is_file():
        raise InputError(
            f"there is no table of results '{path}'; `anyband evaluate … --results {path}` makes one, or name another"
        )
    names = [name for name in _SCHEMA.names if evidence or name != "evidence"]
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
    assert row.evidence is not None
    plain = {name: getattr(row, name) for name in _SCHEMA.names if name in row.__dataclass_fields__}
    main = row.scores[0]
    return {
        **plain,
        **{f"num_{part}": row.num_samples.get(part, 0) for part in ("train", "val", "test")},
        **{name: getattr(main, name) for name in ("metric", "value", "low", "high")},
        "scores": [{**asdict(score), "definition": DEFINITIONS[score.metric]} for score in row.scores],
        **{name: _json(getattr(row, name)) for name in ("settings", "chosen", "curves")},
        "notes": list(row.notes),
        "evidence": _packed(row.evidence),
    }


def _from_values(values: Mapping[str, Any], path: Path) -> ResultRow:
    plain = {name: value for name, value in values.items() if name in ResultRow.__dataclass_fields__}
    packed = plain.pop("evidence", None)
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
        evidence=None if packed is None else _unpacked(packed, short_id(values["id"]), path),
    )


def _score(values: Mapping[str, Any]) -> Score:
    return Score(**{name: values[name] for name in Score.__dataclass_fields__})


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _json(value: Any) -> str:
    return json.dumps(json_values(value), ensure_ascii=False)


def _packed(evidence: Evidence) -> bytes:
    """Write evidence as a compressed NumPy archive, with what is not an array as JSON in it."""
    named = ("kind", "classes", "samples", "groups")
    facts = json.dumps({name: getattr(evidence, name) for name in named})
    buffer = io.BytesIO()
    arrays = {name: np.asarray(array) for name, array in evidence.arrays.items()}
    np.savez_compressed(buffer, allow_pickle=False, facts=np.frombuffer(facts.encode(), dtype=np.uint8), **arrays)
    return buffer.getvalue()


def _unpacked(packed: bytes, identity: str, path: Path) -> Evidence:
    import zipfile
    import zlib

    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as problem:
        raise InputError(f"the evidence of {identity} in '{path}' is damaged ({problem}); evaluate again") from problem
    facts = json.loads(arrays.pop("facts").tobytes().decode())
    named = {name: tuple(facts.get(name, ())) for name in ("classes", "samples", "groups")}
    return Evidence(kind=facts["kind"], arrays=arrays, **named)
