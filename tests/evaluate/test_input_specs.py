"""How labelled samples are read: normalisation, what is known of images, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from anyband.data.places import corners_lonlat
from anyband.encode.encoder import SensorEncoder
from anyband.errors import GeometryError, InputError
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import AugmentRecipe, FitRecipe, InputRecipe, TransferRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.samples import DataSpec, Sample, TaskData

_RECIPE = TransferRecipe(
    name="test",
    data=DataSpec(source="none"),
    input=InputRecipe(batch_size=7),
    fit=FitRecipe(batch_size=8, augment=AugmentRecipe(flips=True, quarter_turns=True)),
)


def _with(**values: object) -> TransferRecipe:
    return _RECIPE.changed(input=_RECIPE.input.changed(**values))


def _only(batches: object) -> TaskBatch:
    (batch,) = batches  # type: ignore[misc]
    return batch


def _changed(data: TaskData, **values: object) -> TaskData:
    """The data with other values in each image."""

    def read(position: int) -> Sample:
        sample = data.read(position)
        return replace(sample, images=tuple(replace(image, **values) for image in sample.images))

    return replace(data, read=read)


def test_what_is_not_valid_stays_so(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    valid = np.ones((4, 32, 32), dtype=bool)
    valid[:, :16] = False
    for resize in ("whole", "native", "short_side"):
        reader = TaskReader(tiny_encoder, _changed(class_data, valid=valid), _with(resize=resize))
        found = _only(reader.batches([0])).images[0].valid
        assert found is not None
        assert not bool(found[:, :, :12].any())
        assert bool(found[:, :, 20:].all())


def test_counted_statistics_are_of_the_training_part_alone(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    def read(position: int) -> Sample:
        sample = class_data.read(position)
        bright = 1 if class_data.splits[position] == "train" else 7
        return Sample(images=(replace(sample.images[0], dn=sample.images[0].dn * np.uint16(bright)),))

    plain, brighter = (
        TaskReader(tiny_encoder, data, _with(statistics="data", resize="native"))
        for data in (class_data, replace(class_data, read=read))
    )
    train = class_data.split("train")
    pixels = torch.cat([batch.images[0].pixels for batch in plain.batches(train)])
    assert torch.allclose(pixels.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.02)
    assert torch.allclose(pixels.std(dim=(0, 2, 3)), torch.ones(4), atol=0.02)
    assert torch.equal(_only(brighter.batches(train[:3])).images[0].pixels, pixels[:3])


def test_a_place_of_several_parts_is_counted_where_it_is_labelled(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    """All samples show one place; the left half is for training, and the right half is ten times as bright."""

    def read(position: int) -> Sample:
        sample = class_map_data.read(position)
        dn = sample.images[0].dn.copy()
        dn[:, :, 24:] *= 10
        labels = np.full((48, 48), -1, dtype=np.int64)
        here = np.s_[:, :24] if class_map_data.splits[position] == "train" else np.s_[:, 24:]
        labels[here] = 0
        return Sample(images=(replace(sample.images[0], dn=dn),), class_map=labels)

    data = replace(class_map_data, read=read, places=("one",) * len(class_map_data))
    reader = TaskReader(tiny_encoder, data, _with(statistics="data"))
    sensor = data.sensors[0][0]
    assert max(reader.input_spec(sensor).normalisation.p99) < 0.35
    apart = TaskReader(tiny_encoder, replace(data, places=()), _with(statistics="data"))
    assert max(apart.input_spec(sensor).normalisation.p99) > 1


def test_statistics_of_the_catalogue_and_of_a_file_are_taken(
    tiny_encoder: SensorEncoder, class_data: TaskData, tmp_path: object
) -> None:
    sensor = class_data.sensors[0][0]
    file = tmp_path / "own.json"  # type: ignore[operator]
    file.write_text(
        json.dumps({band: {"p01": 0.0, "p99": 1.0, "mean": 0.25, "std": 0.5} for band in sensor.band_names})
    )
    own = TaskReader(tiny_encoder, class_data, _with(statistics=str(file), resize="native"))
    found = _only(own.batches([1])).images[0].pixels[0]
    expected = (class_data.read(1).images[0].dn * 1e-4 - 0.25) / 0.5
    assert np.allclose(found.numpy(), expected, atol=1e-5)
    assert any("statistics of 'own.json'" in note for note in own.notes)
    catalogue = TaskReader(tiny_encoder, class_data, _with(statistics="catalogue"))
    assert catalogue.settings()["statistics"] == {"sentinel2-l2a": "statistics of the catalogue"}


@pytest.mark.parametrize("statistics", ["published", None])
def test_published_statistics_are_those_of_the_data_set(
    tiny_encoder: SensorEncoder, class_data: TaskData, statistics: str | None
) -> None:
    """Also where nothing is said, as without a recipe."""
    from anyband.labelled.published import published_statistics_of

    sensor = class_data.sensors[0][0]
    reader = TaskReader(tiny_encoder, replace(class_data, statistics="BigEarthNet"), _with(statistics=statistics))
    published = published_statistics_of("BigEarthNet", sensor)
    assert reader.input_spec(sensor).normalisation.mean == tuple(published[band].mean for band in sensor.band_names)


def test_where_the_published_statistics_are_of_other_bands_the_default_is_the_checkpoints(
    tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    plain = TaskReader(tiny_encoder, class_data, _with())
    reader = TaskReader(tiny_encoder, replace(class_data, statistics="UCMerced"), _with())
    assert reader.settings()["statistics"] == plain.settings()["statistics"]


def test_data_without_a_published_normalisation_are_refused(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    reader = TaskReader(tiny_encoder, class_data, _with(statistics="published"))
    with pytest.raises(
        InputError, match=r"'tiny class of 1' has no published normalisation; use input\.statistics=data"
    ):
        next(reader.batches([0]))


def test_a_sensor_without_training_images_can_not_be_counted(tiny_encoder: SensorEncoder, pair_data: TaskData) -> None:
    def read(position: int) -> Sample:
        sample = pair_data.read(position)
        return replace(sample, images=sample.images if pair_data.splits[position] == "test" else sample.images[1:])

    sensors = tuple(
        one if part == "test" else one[1:] for one, part in zip(pair_data.sensors, pair_data.splits, strict=True)
    )
    reader = TaskReader(tiny_encoder, replace(pair_data, read=read, sensors=sensors), _with(statistics="data"))
    with pytest.raises(InputError, match="has no training image of sensor 'sentinel1-grd'"):
        next(reader.batches([0]))


def test_settings_are_plain_values_and_read_no_image(tiny_encoder: SensorEncoder, pair_data: TaskData) -> None:
    def read(position: int) -> Sample:
        raise AssertionError(position)

    readers = [
        TaskReader(tiny_encoder, replace(pair_data, read=read), recipe)
        for recipe in (_RECIPE, _with(statistics="data"), _with(interpolation="bilinear"), _with(img_size=16))
    ]
    texts = [json.dumps(reader.settings(), sort_keys=True) for reader in readers]
    assert len(set(texts)) == 4
    assert all(reader.notes for reader in readers)


@pytest.mark.parametrize(
    ("resize", "first", "side"),
    # Of 32 pixels: all, the 16 in the middle, or 16 of the 18 that the image is reduced to.
    [("whole", 0.0, 32.0), ("native", 8.0, 16.0), ("short_side", 32 / 18, 32 * 16 / 18)],
)
def test_a_network_is_told_what_the_part_that_it_sees_is(
    resize: str, first: float, side: float, informed_encoder: SensorEncoder, class_data: TaskData
) -> None:
    reader = TaskReader(informed_encoder, class_data, _with(resize=resize, img_size=16))
    metadata = _only(reader.batches([4])).metadata
    assert metadata is not None
    grid = class_data.read(4).images[0].grid
    assert grid is not None
    west, north = grid.to_coordinates(first, first)
    seen = (10 * side, 0.0, west, 0.0, -10 * side, north)
    corners = np.array(corners_lonlat(seen, 1, 1, "EPSG:32632"))
    assert torch.allclose(metadata.lonlat_deg[0, 0], torch.from_numpy(corners.mean(axis=0)).float(), atol=1e-5)
    assert metadata.gsd_m.tolist() == [[10.0]]
    assert metadata.input_gsd_m[0, 0].item() == pytest.approx(10.0 * side / 16)
    assert metadata.year.tolist() == [[2021.0]]
    assert metadata.day_of_year.tolist() == [[4.0]]


def test_a_network_is_told_nothing_where_it_can_not_hear_or_may_not(
    tiny_encoder: SensorEncoder, informed_encoder: SensorEncoder, class_data: TaskData
) -> None:
    assert _only(TaskReader(tiny_encoder, class_data, _RECIPE).batches([0])).metadata is None
    assert _only(TaskReader(informed_encoder, class_data, _with(metadata=False)).batches([0])).metadata is None


def test_images_without_a_place_or_date_are_unknown(informed_encoder: SensorEncoder, class_data: TaskData) -> None:
    data = _changed(class_data, grid=None, datetime=None)
    metadata = _only(TaskReader(informed_encoder, data, _RECIPE).batches([0, 1])).metadata
    assert metadata is not None
    assert all(bool(value.isnan().all()) for value in vars(metadata).values())


def test_images_of_different_ground_are_refused(tiny_encoder: SensorEncoder, pair_data: TaskData) -> None:
    def read(position: int) -> Sample:
        sample = pair_data.read(position)
        return Sample(images=(sample.images[0], pair_data.read(position + 1).images[1]))

    reader = TaskReader(tiny_encoder, replace(pair_data, read=read), _RECIPE)
    with pytest.raises(GeometryError, match=r"'image 0', image 1 \(sentinel1-grd\) and 'image 0', image 2"):
        next(reader.batches([0]))


def test_an_image_without_data_is_named(tiny_encoder: SensorEncoder, pair_data: TaskData) -> None:
    def read(position: int) -> Sample:
        sample = pair_data.read(position)
        if position != 5:
            return sample
        nothing = replace(sample.images[1], valid=np.zeros((4, 32, 32), dtype=bool))
        return Sample(images=(sample.images[0], nothing))

    reader = TaskReader(tiny_encoder, replace(pair_data, read=read), _RECIPE)
    with pytest.raises(InputError, match=r"'image 5': image 2 \(sentinel2-l2a\) has no pixel with data"):
        list(reader.batches(range(7)))


def test_a_map_without_data_is_no_error(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    data = _changed(class_map_data, valid=np.zeros((4, 48, 48), dtype=bool))
    valid = _only(TaskReader(tiny_encoder, data, _RECIPE).batches([0])).images[0].valid
    assert valid is not None
    assert not bool(valid.any())


def test_other_images_than_declared_are_named(tiny_encoder: SensorEncoder, pair_data: TaskData) -> None:
    data = replace(pair_data, read=lambda position: Sample(images=pair_data.read(position).images[::-1]))
    match = "'image 2' was declared with images of sentinel1-grd, sentinel2-l2a, and has sentinel2-l2a, sentinel1-grd"
    with pytest.raises(InputError, match=match):
        next(TaskReader(tiny_encoder, data, _RECIPE).batches([2]))


def test_an_image_of_other_bands_than_declared_is_named(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    data = _changed(class_data, dn=np.ones((5, 8, 8)), valid=np.ones((5, 8, 8), dtype=bool))
    with pytest.raises(
        InputError, match=r"'image 3', image 1: the array has 5 bands, but 4 of 'sentinel2-l2a' are meant"
    ):
        next(TaskReader(tiny_encoder, data, _RECIPE).batches([3]))


def test_labels_of_another_size_are_named(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    data = replace(
        class_map_data, read=lambda at: replace(class_map_data.read(at), class_map=np.zeros((24, 24), dtype=np.int64))
    )
    reader = TaskReader(tiny_encoder, data, _RECIPE)
    with pytest.raises(InputError, match="'map 1': its labels have 24 × 24 pixels, its first image 48 × 48"):
        next(reader.batches([1], targets=True))


def test_a_class_that_is_not_there_is_named(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    data = replace(class_map_data, classes=("water", "field"))
    with pytest.raises(InputError, match=r"'map 0' has class 2 at \d+ pixels; classes are 0 to 1, and -1"):
        TaskReader(tiny_encoder, data, _RECIPE).target(0)


def test_maps_are_not_cut_at_the_short_side(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    with pytest.raises(InputError, match=r"input\.resize=short_side leaves out the edges of images"):
        TaskReader(tiny_encoder, class_map_data, _with(resize="short_side"))


def test_a_size_that_patches_do_not_fill_is_refused(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    with pytest.raises(InputError, match="img_size 20 is not a multiple of the patch size 8"):
        TaskReader(tiny_encoder, class_data, _with(img_size=20))


def test_joint_sets_of_a_network_of_pairs_are_noted(tiny_encoder: SensorEncoder, pair_data: TaskData) -> None:
    joint, apart = (
        TaskReader(tiny_encoder, pair_data, _RECIPE.changed(fusion=fusion)) for fusion in ("joint", "concat")
    )
    assert any("trained on pairs" in note for note in joint.notes)
    assert not any("trained on pairs" in note for note in apart.notes)


def test_an_error_in_a_thread_reaches_the_caller_at_its_turn(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    def read(position: int) -> Sample:
        if position == 20:
            raise InputError("broken file")
        return class_data.read(position)

    reader = TaskReader(tiny_encoder, replace(class_data, read=read), _RECIPE)
    batches = reader.batches(range(24))
    assert len(next(batches).samples) == 7
    assert len(next(batches).samples) == 7
    with pytest.raises(InputError, match="broken file"):
        next(batches)


def test_a_loop_may_end_early(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    reads: list[int] = []

    def read(position: int) -> Sample:
        reads.append(position)
        return class_data.read(position)

    batches = TaskReader(tiny_encoder, replace(class_data, read=read), _with(batch_size=1)).batches(range(40))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(reads) < 10
