"""What an evaluation leaves behind: rows in the table of results, and a folder with a report and fitted weights."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from anyband import __version__
from anyband.errors import InputError, OutputError
from anyband.models.checkpoint import save_checkpoint
from anyband.models.weight_files import write_weights
from anyband.tasks.transfer.records import Outcome
from anyband.tasks.transfer.result_records import ResultRow, json_values, row_to_dict
from anyband.tasks.transfer.result_rows import result_rows
from anyband.tasks.transfer.result_store import Appended, append_results, read_results
from anyband.tasks.transfer.setting import Setting
from anyband.whole_files import check_target, whole_directory

__all__ = ["Outputs", "Written", "write_outputs"]

# What does not stand in the names of files: all but letters, digits, dots and dashes.
_UNSAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where results go."""

    folder: Path | None = None
    """New folder for the report and what belongs to it; None: none."""
    results: Path | None = None
    """Table that results are appended to; None: none."""

    def check(self) -> None:
        """See before any work that results can be written.

        Raises:
            OutputError: the folder exists, or a file can't be written.
            InputError: the table is none.
        """
        if self.folder is not None:
            if self.folder.exists():
                raise OutputError(f"'{self.folder}' exists already; remove it or name another folder")
            check_target(self.folder)
        if self.results is not None:
            check_target(self.results)
            # Whatever is there must be a table of results, or hours of work would end in an error.
            if self.results.exists():
                read_results(self.results)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written."""

    rows: tuple[ResultRow, ...]
    """One for each outcome, with the ids that they have in the table."""
    notes: tuple[str, ...]
    """What became of rows that the table had already."""


def write_outputs(setting: Setting, outcomes: Sequence[Outcome], outputs: Outputs) -> Written:
    """Score outcomes, write the folder, and append to the table; each appears whole or not at all.

    The folder holds `report.html`, `result.json`, `recipe.yaml` (with every key), and for each outcome with something
    fitted its weights as `NAME.safetensors`; an encoder that was trained is beside it, as the checkpoint
    `NAME_checkpoint.safetensors`.

    Args:
        setting: that they were found with.
        outcomes: the encoder's first.
        outputs: where to.

    Raises:
        OutputError: no room, or no permission.
        InputError: the table is none.
    """
    rows = result_rows(setting, outcomes)
    if outputs.folder is not None:
        with whole_directory(outputs.folder) as beside:
            _write_folder(beside, setting, outcomes, rows)
    if outputs.results is None:
        return Written(rows=tuple(rows), notes=())
    appended = _append(outputs.results, rows, outputs.folder)
    known = [replace(row, id=identity) for row, identity in zip(rows, appended.ids, strict=True)]
    return Written(rows=tuple(known), notes=appended.notes)


def _append(path: Path, rows: Sequence[ResultRow], folder: Path | None) -> Appended:
    try:
        return append_results(path, rows)
    except (InputError, OutputError) as problem:
        if folder is None:
            raise
        # The work is not lost with the table.
        raise OutputError(f"{problem}; '{folder}' is written and holds the results") from problem


def _write_folder(folder: Path, setting: Setting, outcomes: Sequence[Outcome], rows: Sequence[ResultRow]) -> None:
    from anyband.tasks.transfer.task_report import write_report

    result = {"anyband": __version__, "results": [row_to_dict(row) for row in rows]}
    (folder / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    recipe = json_values({**asdict(setting.recipe), "protocol": setting.protocol})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
    for outcome, row in zip(outcomes, rows, strict=True):
        name = _UNSAFE.sub("_", outcome.features).strip("_")
        if outcome.model:
            _write_weights(folder / f"{name}.safetensors", outcome, row)
        if outcome.checkpoint is not None:
            save_checkpoint(folder / f"{name}_checkpoint.safetensors", outcome.checkpoint)
    write_report(folder / "report.html", setting.data, outcomes, rows, shown=setting.shown)


def _write_weights(path: Path, outcome: Outcome, row: ResultRow) -> None:
    header = {
        "anyband_task": row.protocol,
        "classes": json.dumps(outcome.evidence.classes),
        "checkpoint": row.checkpoint,
        "checkpoint_hash": row.checkpoint_hash,
        "settings": json.dumps(row.settings),
    }
    elsewhere = {} if outcome.checkpoint is None else outcome.checkpoint.state
    weights = {name: value for name, value in outcome.model.items() if name not in elsewhere}
    write_weights(path, weights, header)
