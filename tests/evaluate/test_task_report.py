"""The report of an evaluation: what it says, what it shows, and the worst mistakes."""

import datetime as dt
import html
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from predicted import (
    class_map_predictions,
    class_predictions,
    labels_predictions,
    number_map_predictions,
    number_predictions,
)

from anyband.errors import OutputError
from anyband.evaluate.features import Result
from anyband.evaluate.metrics import Predictions, scores_of
from anyband.evaluate.report import picture_title, sample_picture, thinned, worst_mistakes, write_report
from anyband.evaluate.results import ResultRow, notes_of_groups
from anyband.labelled.samples import SampleImage, TaskData
from anyband.sensors.catalogue import get_sensor


def _class_outcome(data: TaskData, features: str, *, wrong: Sequence[int] = (), margin: float = 1.0) -> Result:
    test = data.split("test")
    labels = np.asarray(data.targets)[test]
    scores = np.eye(3)[labels]
    for index in wrong:
        scores[index, (labels[index] + 1) % 3] = 1 + margin
    predictions = class_predictions(labels, scores, classes=data.classes, samples=[data.names[i] for i in test])
    return Result(
        features=features,
        width=32,
        predictions=predictions,
        chosen={"epoch": 2, "validation": 0.75},
        curves={"training loss": (1.0, 0.5), "validation": (0.5, 0.75)},
    )


def _map_outcome(data: TaskData, features: str, *, predicted: int) -> Result:
    test, count = data.split("test"), len(data.classes)
    maps, counts = {}, []
    for position in test.tolist():
        truth = data.read(position).class_map
        assert truth is not None
        maps[position] = np.full(truth.shape, predicted)
        labelled = truth[truth >= 0]
        counts.append(np.bincount(labelled * count + predicted, minlength=count**2).reshape(count, count))
    names = [data.names[position] for position in test]
    predictions = class_map_predictions(np.stack(counts), classes=data.classes, samples=names)
    return Result(features=features, width=32, predictions=predictions, maps=maps)


def _number_map_outcome(data: TaskData) -> Result:
    test = data.split("test")
    maps, sums = {}, []
    for position in test.tolist():
        truth = data.read(position).number_map
        assert truth is not None
        maps[position] = np.zeros_like(truth)
        known = truth[np.isfinite(truth)].astype(np.float64)
        squares = (known**2).sum()
        sums.append([len(known), known.sum(), squares, squares, np.abs(known).sum()])
    predictions = number_map_predictions(np.array(sums), samples=[data.names[position] for position in test])
    return Result(features="encoder", width=32, predictions=predictions, maps=maps)


def _rows(data: TaskData, results: Sequence[Result], *, notes: tuple[str, ...] = ()) -> list[ResultRow]:
    return [
        ResultRow(
            id="a1b2c3d4" * 4,
            made=dt.datetime(2024, 5, 1, 12, 30, tzinfo=dt.UTC),
            recipe="fields <west>",
            protocol="linear",
            features=result.features,
            width=result.width,
            checkpoint="tiny.safetensors",
            checkpoint_hash="c0ffee",
            data=data.name,
            data_fingerprint=data.fingerprint,
            kind=data.kind,
            num_samples={str(part): count for part, count in data.num_samples.items()},
            seed=0,
            settings={"input": {"pool": "cls", "img_size": None}},
            scores=scores_of(result.predictions, seed=0, num_resamples=20),
            chosen=result.chosen,
            curves=result.curves,
            notes=notes,
            predictions=result.predictions,
        )
        for result in results
    ]


def _page(data: TaskData, *results: Result, rows: Sequence[ResultRow] | None = None) -> dict[str, str]:
    """Give the text of each section of a report, cells and parts joined by `|`, pictures by what they show."""
    with tempfile.TemporaryDirectory() as folder:
        write_report(Path(folder) / "r.html", data, results, rows or _rows(data, results))
        found = (Path(folder) / "r.html").read_text(encoding="utf-8")
    sections = re.split(r'<h2 id="section-\d+">', re.sub(r'<img src="[^"]*" alt="([^"]*)">', r"\1", found))
    texts = [html.unescape(re.sub(r"(<[^>]*>\s*)+", "|", section)) for section in sections]
    return dict(text.split("|", 1) for text in texts[1:]) | {"lead": texts[0]}


def test_a_report_is_one_file_that_fetches_nothing(tmp_path: Path, class_data: TaskData) -> None:
    results = [_class_outcome(class_data, "encoder", wrong=[1])]
    write_report(tmp_path / "report.html", class_data, results, _rows(class_data, results))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "fields &lt;west&gt;: linear on tiny class of 1" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_can_not_be_written_leaves_the_old_one(tmp_path: Path, class_data: TaskData) -> None:
    results = [_class_outcome(class_data, "encoder")]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError):
        write_report(tmp_path / "folder", class_data, results, _rows(class_data, results))
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_the_lead_gives_the_main_score_and_the_best_of_the_others(class_data: TaskData) -> None:
    encoder = _class_outcome(class_data, "encoder", wrong=[0])
    others = [_class_outcome(class_data, "band means", wrong=range(wrong)) for wrong in (5, 3)]
    page = _page(class_data, encoder, *others)
    assert "tiny.safetensors (encoder) reaches accuracy 88.9 [" in page["lead"]
    assert "on 9 test samples of tiny class of 1, with 30 samples for training" in page["lead"]
    assert "The best of what it is compared with, band means, reaches 66.7 [" in page["lead"]


def test_scores_stand_with_their_definitions_and_paired_differences(class_data: TaskData) -> None:
    encoder = _class_outcome(class_data, "encoder", wrong=[0])
    scores = _page(class_data, encoder, _class_outcome(class_data, "other", wrong=[0, 1]))["Scores"]
    assert re.search(r"\|encoder\|\d+\|88.9 .*\|other\|\d+\|77.8 ", scores)
    assert "accuracy: share of the samples whose highest-scoring class is theirs" in scores
    assert "|encoder less|" in scores
    assert "|other|+11.1 [0.0 to +" in scores


def test_one_outcome_alone_has_no_differences(class_data: TaskData) -> None:
    assert "encoder less" not in _page(class_data, _class_outcome(class_data, "encoder"))["Scores"]


def test_sections_without_anything_to_show_are_left_out(class_data: TaskData) -> None:
    bare = replace(_class_outcome(class_data, "encoder"), chosen={}, curves={})
    assert list(_page(class_data, bare)) == ["Scores", "Classes", "Worst mistakes", "What was done", "lead"]


def test_what_validation_chose_and_its_curves_are_shown(class_data: TaskData) -> None:
    page = _page(class_data, _class_outcome(class_data, "encoder"))
    assert "|encoder|epoch 2, validation 0.75|" in page["Fit"]
    assert "|curves over the epochs: training loss, validation|" in page["Fit"]


def test_each_class_has_its_scores(class_data: TaskData) -> None:
    page = _page(class_data, _class_outcome(class_data, "encoder", wrong=[0]))
    header = "class|true|predicted|precision, %|recall, %|F1, %|IoU, %"
    assert header in page["Classes"]
    assert re.findall(r"\|(water|field|town)\|3\|\d", page["Classes"]) == list(class_data.classes)


def test_wrong_samples_are_shown_and_where_none_is_wrong_that_is_said(class_data: TaskData) -> None:
    wrong = _page(class_data, _class_outcome(class_data, "encoder", wrong=[0]))
    assert "pictures of the worst mistakes" in wrong["Worst mistakes"]
    right = _page(class_data, _class_outcome(class_data, "encoder"))
    assert "encoder: none of the 9 test samples is wrong.|" in right["Worst mistakes"]


def test_maps_stand_beside_images_and_labels(class_map_data: TaskData) -> None:
    page = _page(class_map_data, *(_map_outcome(class_map_data, name, predicted=k) for k, name in enumerate("ab")))
    assert "images, labels and predicted maps of test samples|" in page["Maps"]


def test_maps_of_change_show_both_dates(change_data: TaskData) -> None:
    page = _page(change_data, _map_outcome(change_data, "encoder", predicted=0))
    assert "|Test samples; grey has no label.|" in page["Maps"]


def test_numbers_of_samples_and_of_pixels_are_drawn(number_data: TaskData, number_map_data: TaskData) -> None:
    test = number_data.split("test")
    truth = np.asarray(number_data.targets)[test]
    names = [number_data.names[position] for position in test]
    single = Result(features="encoder", width=8, predictions=number_predictions(truth, truth + 0.1, samples=names))
    assert "predicted numbers over true ones" in _page(number_data, single)["Numbers"]
    assert "predicted maps" in _page(number_map_data, _number_map_outcome(number_map_data))["Maps"]


def test_labels_have_a_precision_each_and_no_confusion(labels_data: TaskData) -> None:
    test = labels_data.split("test")
    holds = np.asarray(labels_data.targets)[test]
    names = [labels_data.names[position] for position in test]
    predictions = labels_predictions(holds, holds.astype(float), classes=labels_data.classes, samples=names)
    page = _page(labels_data, Result(features="encoder", width=8, predictions=predictions))
    assert page["Classes"].count("|100.0|") == len(labels_data.classes)
    assert "confusion" not in page["Classes"]


def test_notes_of_one_outcome_name_it(class_data: TaskData) -> None:
    results = [_class_outcome(class_data, name) for name in ("encoder", "other")]
    rows = _rows(class_data, results, notes=("the samples are few.",))
    rows[1] = replace(rows[1], notes=(*rows[1].notes, "no image was read"))
    page = _page(class_data, *results, rows=rows)
    assert page["What was done"].startswith("The samples are few.|other: no image was read.|")


def _mistakes(predictions: Predictions) -> list[tuple[str, ...]]:
    return [(name, *lines) for name, lines in worst_mistakes(predictions)]


def test_the_most_confident_mistake_is_the_worst() -> None:
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.9, 0.1]])
    predictions = class_predictions(np.array([0, 1, 1, 0]), scores, classes=("water", "town"), samples=tuple("abcd"))
    assert _mistakes(predictions) == [
        ("c", "water", "true: town", "scores 0.8, true class 0.2"),
        ("b", "water", "true: town", "scores 0.6, true class 0.4"),
    ]


def test_of_labels_the_worst_order_counts() -> None:
    labels = np.array([[True, False], [False, True], [True, True], [False, False]])
    scores = np.array([[0.9, 0.1], [0.7, 0.2], [0.1, 0.2], [0.9, 0.8]])
    predictions = labels_predictions(labels, scores, classes=("water", "town"), samples=tuple("abcd"))
    assert _mistakes(predictions) == [("b", "not there: water", "there: town", "scores 0.7 and 0.2")]


def test_of_numbers_the_largest_error_counts() -> None:
    predictions = number_predictions(np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.0, 1.0]), samples=tuple("abc"))
    assert [mistake[0] for mistake in _mistakes(predictions)] == ["c", "a"]
    assert _mistakes(predictions)[0][1:] == ("predicted 1", "true 3", "error 2")


def test_of_maps_the_share_of_wrong_pixels_counts_and_the_commonest_error_is_named() -> None:
    counts = np.array([[[8, 2], [0, 0]], [[0, 0], [0, 0]], [[1, 4], [5, 0]], [[9, 0], [0, 9]]])
    predictions = class_map_predictions(counts, classes=("water", "town"), samples=tuple("abcd"))
    assert _mistakes(predictions) == [
        ("c", "90 % of 10 pixels wrong", "most: town", "taken for water"),
        ("a", "20 % of 10 pixels wrong", "most: water", "taken for town"),
    ]


def test_of_maps_of_numbers_samples_without_labels_are_no_mistakes() -> None:
    sums = np.array([[4.0, 4.0, 4.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0], [4.0, 8.0, 16.0, 64.0, 16.0]])
    assert _mistakes(number_map_predictions(sums, samples=tuple("abc"))) == [
        ("c", "RMSE 4", "mean of the labels 2", "4 pixels"),
        ("a", "RMSE 0.5", "mean of the labels 1", "4 pixels"),
    ]


def test_no_more_mistakes_are_shown_than_a_person_looks_through() -> None:
    predictions = number_predictions(np.zeros(40), np.arange(40.0) + 1, samples=[str(index) for index in range(40)])
    assert len(worst_mistakes(predictions)) == 12


def test_a_picture_has_no_colour_where_the_image_has_no_data_and_is_no_larger_than_a_screen_needs() -> None:
    sensor = get_sensor("sentinel2-l2a").select(("B02", "B03", "B04"))
    dn = np.random.default_rng(0).integers(1, 3000, (3, 800, 900)).astype(np.uint16)
    valid = np.ones(dn.shape, dtype=bool)
    valid[0, :30] = False
    image = SampleImage(dn=dn, valid=valid, sensor=sensor, datetime=dt.datetime(2021, 6, 1, tzinfo=dt.UTC))
    drawn = sample_picture(image)
    assert max(drawn.shape[1:]) <= 384
    assert np.isnan(drawn[:, 0]).all()
    assert np.isfinite(drawn[:, -1]).all()
    assert picture_title(image) == "sentinel2-l2a 2021-06-01\nnatural colour"


def test_small_maps_are_not_thinned() -> None:
    array = np.arange(384 * 4).reshape(4, 384)
    assert (thinned(array) == array).all()


def test_test_samples_that_share_ground_are_noted() -> None:
    predictions = number_predictions(np.arange(4.0), np.arange(4.0), samples=("a", "b", "c", "d"))
    assert notes_of_groups(predictions) == ()
    two = replace(predictions, groups=("here", "here", "there", "there"))
    assert notes_of_groups(two) == (
        "intervals resample 2 independent images, places or blocks; 4 predictions are of them",
    )
    assert notes_of_groups(replace(predictions, groups=("here",) * 4))[0].endswith(
        "one piece of ground, which has no interval"
    )


def test_predictions_that_find_no_room_are_named(class_map_data: TaskData) -> None:
    page = _page(class_map_data, *(_map_outcome(class_map_data, name, predicted=0) for name in "abcde"))
    assert "|Test samples; grey has no label; predictions of d, e are not shown.|" in page["Maps"]
