"""What `anyband pretrain` says: once whatever the number of processes, and advice that fits."""

from pathlib import Path

import numpy as np
import pytest
from lightning_fabric.utilities.rank_zero import rank_zero_only

from anyband.cli import main
from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import Chip, ChipRecord, write_store
from anyband.errors import CatalogueError
from anyband.pretraining import loop as pretraining
from anyband.pretraining.loop import PretrainResult
from anyband.pretraining.plan import plan_run
from anyband.pretraining.recipe import PretrainRecipe
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Encoding


@pytest.mark.parametrize(("rank", "lines"), [(0, 1), (1, 0)])
def test_only_the_first_process_names_the_result(
    rank: int, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = PretrainResult(
        checkpoint=Path("run/encoder.safetensors"),
        best=None,
        steps=2,
        loss=1.0,
        resumed_from=None,
        already_finished=False,
    )
    monkeypatch.setattr(pretraining, "pretrain", lambda recipe, *, data, out, shown: result)
    monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)
    (tmp_path / "store.json").write_text("{}")  # Looked for before anything is loaded.
    assert main(["pretrain", "smarties_tiny", "--data", str(tmp_path), "--out", "run"]) == 0
    assert capsys.readouterr().out.count("encoder.safetensors (2 steps)") == lines


def test_a_sensor_without_published_statistics_is_trained_with_those_of_the_store(tmp_path: Path) -> None:
    sensors = {name: get_sensor(name) for name in ("landsat8-oli-tirs-l2", "sentinel1-grd")}
    bands = {"landsat8-oli-tirs-l2": ("SR_B2",), "sentinel1-grd": ("VV",)}
    chips = [
        (
            ArraySpec(
                sensor=name,
                bands=bands[name],
                height=16,
                width=16,
                dtype="int16",
                encoding=dict.fromkeys(bands[name], Encoding(scale=0.01)),
                nodata=None,
            ),
            ChipRecord(place="p", cell="r000c000", sensor=name, source_path="p", valid_fraction=1.0),
            Chip(pixels=np.ones((1, 16, 16), np.int16)),
        )
        for name in sensors
    ]
    write_store(tmp_path / "store", chips, sensors)
    with pytest.raises(CatalogueError, match=r"prepare --stats`, and take them with data\.statistics=store"):
        plan_run(PretrainRecipe(name="catalogue"), ChipStore.open(tmp_path / "store"))
