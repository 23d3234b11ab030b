"""The main job on real images of many sensors and formats, short: prepare, pre-train, score, embed, report."""

import csv
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from anyband.data.store import ChipStore
from anyband.demo.run import DemoOptions, DemoResult, run_demo
from anyband.demo.story import summary_lines, write_report

pytestmark = [pytest.mark.real, pytest.mark.slow]


def _kit_rows(images: Path) -> list[dict]:
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).parent / "kit.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    return kit.manifest_rows(images, short=True)


def _label_table(images: Path, path: Path, *, each: int) -> Path:
    folders = sorted((images / "ucmerced_jpg").iterdir())[:6]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for folder in folders:
            for number, image in enumerate(sorted(folder.glob("*.jpg"))[:each]):
                split = ("train", "train", "train", "val", "test")[number % 5]
                writer.writerow([image, folder.name, split])
    return path


@pytest.fixture(scope="module")
def result(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    folder = tmp_path_factory.mktemp("real")
    manifest = folder / "kit.yaml"
    manifest.write_text(yaml.safe_dump(_kit_rows(real_data)))
    options = DemoOptions(
        images=manifest,
        steps=6,
        set_steps=6,
        batch_size=8,
        chip_px=96,
        labelled=_label_table(real_data, folder / "labels.csv", each=10),
        labelled_sensor="maxar-rgb",
        workers=2,
        shown=False,
    )
    return run_demo(folder / "out", options)


def test_every_usable_image_of_the_kit_gives_chips(result: DemoResult) -> None:
    reasons = [reason for _, reason in result.prepared.skipped]
    assert all("has no data" in reason or "stands in the list twice" in reason for reason in reasons), reasons
    assert {"sentinel1-grd", "sentinel2-l1c", "sentinel2-l2a", "maxar-rgb", "capella-x", "naip"} <= set(
        result.prepared.chips
    )


def test_radar_and_optical_chips_of_one_footprint_pair(result: DemoResult) -> None:
    pairs = result.prepared.pairs
    assert pairs["sentinel2-l2a + sentinel1-grd"] > 50
    assert pairs["sentinel1-grd + sentinel2-l1c"] > 20
    assert pairs["maxar-rgb + capella-x"] >= 1


def test_reflectance_and_backscatter_come_out_in_their_units(result: DemoResult) -> None:
    statistics = result.store.statistics
    nir, vv = statistics["sentinel2-l2a"]["B08"], statistics["sentinel1-grd"]["VV"]
    assert 0 <= nir.p01 < 0.2 < nir.p99 < 1.2
    assert -35 < vv.p01 < vv.p99 < 15


def test_paired_chips_show_the_same_ground(result: DemoResult) -> None:
    """Water is dark in near infrared and in radar: the two must agree over the flooded scene."""
    store: ChipStore = result.store
    table = store.index.to_pylist()
    flood = [row for row in table if row["place"].startswith("sen1floods11")]
    by_cell = {(row["cell"], row["sensor"]): row for row in flood}
    agreement = []
    for (cell, sensor), row in by_cell.items():
        if sensor == "sentinel2-l1c" and (cell, "sentinel1-grd") in by_cell:
            optical, _ = store.read(row["array"], [row["array_row"]])
            radar_row = by_cell[(cell, "sentinel1-grd")]
            radar, _ = store.read(radar_row["array"], [radar_row["array_row"]])
            nir, vh = optical[0, 7].astype(float), radar[0, 1].astype(float)
            if nir.std() > 300:
                agreement.append(np.corrcoef(nir.ravel(), vh.ravel())[0, 1])
    assert agreement
    assert np.median(agreement) > 0.2


def test_the_loss_stays_finite(result: DemoResult) -> None:
    with (result.run / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses
    assert np.isfinite(losses).all()


def test_features_of_the_largest_scene_lie_on_its_patch_grid(result: DemoResult) -> None:
    grid = result.scene.grid
    assert grid.crs == "EPSG:32648"
    assert (grid.height, grid.width, grid.gsd_m) == (67, 67, 160.0)


def test_the_report_is_one_page_with_scores_and_pictures(result: DemoResult, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", result)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert not re.search(r'(src|href)="https?:', page)
    assert any("untrained encoder" in line for line in summary_lines(result))
