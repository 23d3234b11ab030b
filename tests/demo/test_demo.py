"""The main job on simulated landscapes, small: every stage gives what the report tells."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from anyband.cli import main
from anyband.demo.run import KINDS, UNSEEN_SENSOR, DemoOptions, DemoResult, run_demo
from anyband.demo.story import summary_lines, write_report
from anyband.errors import InputError, OutputError
from anyband.models.checkpoint import load_checkpoint

OPTIONS = DemoOptions(num_places=40, steps=4, batch_size=8, set_steps=2, set_batch_size=4, workers=2, shown=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def result(folder: Path) -> DemoResult:
    return run_demo(folder, OPTIONS)


@pytest.fixture(scope="module")
def page(result: DemoResult, folder: Path) -> str:
    write_report(folder / "report.html", result)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_unseen_sensor_is_prepared_and_never_trained_on(result: DemoResult) -> None:
    assert result.prepared.chips[UNSEEN_SENSOR] == 80  # Two dates of 40 places.
    assert UNSEEN_SENSOR not in load_checkpoint(result.run / "encoder.safetensors").sensors


def test_every_choice_of_sensors_is_scored_beside_both_baselines(result: DemoResult) -> None:
    assert list(result.places)[-1] == (UNSEEN_SENSOR,)
    assert list(result.set_places) == list(result.places)
    for scores in (*result.places.values(), *result.set_places.values()):
        assert set(scores) == set(KINDS)
        for accuracy in scores.values():
            assert 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1
            assert accuracy.num_samples == result.counts["test"]


def test_a_band_of_little_support_is_dropped_and_said(result: DemoResult) -> None:
    (note,) = {note for note in result.notes if "ST_B10" in note}
    assert "ST_B10: dropped, support 0.10: its support, 0.099, is under min_support, 0.15" in note


def test_the_scene_is_embedded_whole(result: DemoResult) -> None:
    grid = result.scene.grid
    assert (grid.height, grid.width, grid.gsd_m) == (36, 36, 160.0)
    assert result.scene.num_missing == 0


def test_the_place_of_the_page_is_shown_by_every_sensor(result: DemoResult) -> None:
    assert result.place is not None
    assert len(result.prepared.chips) == 4
    assert result.place[2] == 8  # Four sensors, two dates.


def test_the_page_stands_alone(page: str) -> None:
    assert page.count("data:image/png;base64,") == 9
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_sets_are_drawn_with_their_anchor_what_was_seen_and_the_reconstruction(result: DemoResult, page: str) -> None:
    assert sorted(path.name for path in (result.set_run / "panels").iterdir()) == [
        "step_00000002_sets.png",
        "step_00000002_sets_hidden.png",
    ]
    assert load_checkpoint(result.set_run / "encoder.safetensors").config.images == "set"
    assert "Images of one place with the anchor marked, what was visible of each, and the reconstruction" in page


def test_the_page_is_well_formed_html(page: str) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img", "br", "link"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open == []


def test_the_page_says_how_patches_are_denormalised(page: str) -> None:
    assert "de-normalised with the mean and deviation of the target patch itself" in page


def test_every_score_of_the_summary_stands_in_the_page(result: DemoResult, page: str) -> None:
    for line in summary_lines(result):
        for value in re.findall(r"\d+\.\d \[", line):
            assert value in page


def test_a_finished_demo_is_taken_up_and_tells_the_same(result: DemoResult, folder: Path) -> None:
    again = run_demo(folder, OPTIONS)
    assert again.prepared.was_complete
    assert again.places == result.places


def test_a_demo_of_other_options_is_refused_and_left_alone(result: DemoResult, folder: Path, capsys) -> None:
    before = (folder / "demo.json").read_bytes()
    assert main(["demo", "--out", str(folder), "--steps", "5", "--quiet"]) == 2
    assert "holds a demo of other options" in capsys.readouterr().err
    assert (folder / "demo.json").read_bytes() == before


def _labelled(folder: Path) -> Path:
    """Take the simulated images as those of a user: eight places, and two classes that nothing tells apart."""
    manifest = (folder / "images" / "manifest.csv").read_text(encoding="utf-8")
    columns, *rows = csv.reader(manifest.splitlines())
    path, place, sensor = (columns.index(name) for name in ("path", "place", "sensor"))
    own = [row for row in rows if row[place] < "place_00008" and row[sensor] != UNSEEN_SENSOR]
    parts = ("train", "train", "train", "train", "val", "val", "test", "test")
    with (folder / "images" / "own.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *own])
    with (folder / "images" / "own_labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "place", "split"])
        for row in own:
            number = int(row[place][-1])
            if row[sensor] == "maxar-rgb":
                writer.writerow([row[path], "ab"[number % 2], row[place], parts[number]])
    return folder / "images" / "own_labels.csv"


@pytest.mark.slow
def test_labelled_images_of_the_user_are_scored_beside_both_baselines(
    result: DemoResult, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = _labelled(folder)
    words = ["--images", str(labels.parent / "own.csv"), "--labelled", str(labels), "--labelled-sensor", "maxar-rgb"]
    brief = ["--steps", "1", "--set-steps", "1", "--batch-size", "4", "--quiet"]
    assert main(["demo", "--out", str(tmp_path / "out"), *words, *brief]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("labelled images, ")]
    names = [line.removeprefix("labelled images, ").partition(":")[0] for line in lines]
    assert names == ["encoder", "untrained encoder", "band means + nearest neighbours"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "kNN (k = 8) on 4 labelled images of" in page
    for line in lines:
        assert re.findall(r"\d+\.\d \[", line)[0] in page


def test_labelled_images_need_a_sensor() -> None:
    with pytest.raises(InputError, match="give both, or neither"):
        DemoOptions(images=Path("manifest.csv"), labelled=Path("images"))


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        run_demo(tmp_path / "file", OPTIONS)
