"""Labelled samples as network input."""

import sys
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import rasterio
import torch
from skimage.transform import rescale
from torchvision.transforms.v2 import functional as vision

from anyband.encode.encoder import SensorEncoder
from anyband.errors import InputError, RecipeError
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import AugmentRecipe, FitRecipe, InputRecipe, TransferRecipe
from anyband.evaluate.samples import TaskBatch, cover, reduced
from anyband.labelled.samples import DataSpec, Sample, TaskData
from anyband.models.inputs import ImageBatch
from anyband.rasters.grid import Window

_RECIPE = TransferRecipe(
    name="test",
    data=DataSpec(source="none"),
    input=InputRecipe(batch_size=7),
    fit=FitRecipe(batch_size=8, augment=AugmentRecipe(flips=True, quarter_turns=True)),
)
_ALL = ["class_data", "labels_data", "number_data", "pair_data", "class_map_data", "number_map_data", "change_data"]


def _with(**values: object) -> TransferRecipe:
    return _RECIPE.changed(input=_RECIPE.input.changed(**values))


def _augmented(resize: str, **values: object) -> TransferRecipe:
    return _with(resize=resize).changed(fit=_RECIPE.fit.changed(augment=AugmentRecipe(**values)))


def _only(batches: object) -> TaskBatch:
    (batch,) = batches  # type: ignore[misc]
    return batch


def _standardised(encoder: SensorEncoder, sample: Sample, slot: int = 0) -> ImageBatch:
    """The image in its own pixels."""
    image = sample.images[slot]
    reading = encoder.input_spec(image.sensor)
    return reading.image_batch(torch.from_numpy(image.dn)[None], valid=torch.from_numpy(image.valid)[None])


@pytest.mark.parametrize("name", _ALL)
def test_every_sample_comes_once_and_equal_epochs_give_equal_batches(
    name: str, tiny_encoder: SensorEncoder, request: pytest.FixtureRequest
) -> None:
    data: TaskData = request.getfixturevalue(name)
    train = data.split("train").tolist()
    for resize in ("whole", "native"):
        reader = TaskReader(tiny_encoder, data, _with(resize=resize))
        batches = list(reader.batches(train, targets=True))
        assert np.concatenate([batch.samples for batch in batches]).tolist() == train
        first, again = list(reader.training_batches(3)), list(reader.training_batches(3))
        assert len(first) == len(reader.training_order(0))
        assert sorted(np.concatenate([one.samples for one in first])) == train
        for one, other in zip(first, again, strict=True):
            assert (one.samples == other.samples).all()
            assert torch.equal(one.images[-1].pixels, other.images[-1].pixels)
            assert torch.equal(one.targets.nan_to_num(), other.targets.nan_to_num())
        for batch in (*batches, *first):
            assert len(batch.targets) == len(batch.samples) == len(batch.images[0].pixels)
            assert batch.sensors == tuple(sensor.name for sensor in data.sensors[0])


def test_epochs_differ_in_order_and_variation(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    reader = TaskReader(tiny_encoder, class_data, _RECIPE)
    assert reader.training_order(0) != reader.training_order(1)
    seen = [
        {
            int(sample): pixels
            for batch in reader.training_batches(epoch)
            for sample, pixels in zip(batch.samples, batch.images[0].pixels, strict=True)
        }
        for epoch in (0, 1)
    ]
    assert any(not torch.equal(seen[0][sample], seen[1][sample]) for sample in seen[0])


def test_how_a_sample_is_varied_does_not_depend_on_its_batch(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    found = []
    for size in (3, 30):
        reader = TaskReader(tiny_encoder, class_data, _RECIPE.changed(fit=_RECIPE.fit.changed(batch_size=size)))
        batches = list(reader.training_batches(0))
        pixels = torch.cat([batch.images[0].pixels for batch in batches])
        found.append(pixels[np.argsort(np.concatenate([batch.samples for batch in batches]))])
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1])]
)
def test_a_single_sample_left_over_joins_the_batch_before(
    count: int, size: int, expected: list[int], tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    data = class_data.take(class_data.split("train")[:count], fingerprint="few")
    reader = TaskReader(tiny_encoder, data, _RECIPE.changed(fit=_RECIPE.fit.changed(batch_size=size)))
    assert sorted(len(one) for one in reader.training_order(0)) == sorted(expected)


def test_targets_have_the_types_of_their_kind(
    tiny_encoder: SensorEncoder,
    class_data: TaskData,
    labels_data: TaskData,
    number_data: TaskData,
    class_map_data: TaskData,
    number_map_data: TaskData,
) -> None:
    def first(data: TaskData) -> torch.Tensor:
        found = _only(TaskReader(tiny_encoder, data, _RECIPE).batches([0, 1], targets=True)).targets
        assert found is not None
        return found

    assert first(class_data).dtype == torch.int64
    assert first(class_data).tolist() == class_data.targets[:2].tolist()
    assert first(labels_data).dtype == torch.float32
    assert first(labels_data).tolist() == labels_data.targets[:2].astype(float).tolist()
    assert first(number_data).dtype == torch.float32
    assert torch.allclose(first(number_data), torch.from_numpy(number_data.targets[:2]).float())
    assert first(class_map_data).dtype == torch.int64
    assert first(class_map_data).shape == (2, 32, 32)
    assert first(number_map_data).dtype == torch.float32
    assert bool(first(number_map_data)[0, :5, :5].isnan().all())


def test_whole_images_are_resized_after_they_are_normalised(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    for interpolation in ("bicubic", "bilinear"):
        reader = TaskReader(tiny_encoder, class_map_data, _with(interpolation=interpolation))
        found = _only(reader.batches([2])).images[0].pixels
        mode = vision.InterpolationMode(interpolation)
        pixels = _standardised(tiny_encoder, class_map_data.read(2)).pixels
        assert torch.allclose(found, vision.resize(pixels, [32, 32], interpolation=mode, antialias=True), atol=1e-5)


def test_digital_numbers_are_reduced_bilinearly_before_they_are_clipped_and_resized(
    tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    found = _only(TaskReader(tiny_encoder, class_data, _RECIPE).batches([2], scale=0.125)).images[0].pixels
    image = class_data.read(2).images[0]
    numbers = torch.from_numpy(image.dn)[None].float()
    small = vision.resize(numbers, [4, 4], interpolation=vision.InterpolationMode.BILINEAR, antialias=True)
    standardised = tiny_encoder.input_spec(image.sensor).image_batch(small).pixels
    expected = vision.resize(standardised, [32, 32], interpolation=vision.InterpolationMode.BICUBIC, antialias=True)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("is_picture", [True, False])
def test_released_reduction_is_that_of_gdal_and_its_jpeg_driver(is_picture: bool) -> None:
    rng = np.random.default_rng(0)
    kind, top = (np.uint8, 256) if is_picture else (np.uint16, 4000)
    dn = rng.integers(0, top, (2, 3, 35, 41)).astype(kind)
    found, valid = reduced(
        torch.from_numpy(dn), torch.ones(dn.shape, dtype=torch.bool), 0.25, how="released", is_picture=is_picture
    )
    assert (found.shape, found.dtype, bool(valid.all())) == ((2, 3, 8, 10), torch.from_numpy(dn).dtype, True)
    for one, small in zip(dn, found.numpy(), strict=True):
        with rasterio.MemoryFile() as memory, rasterio.MemoryFile() as picture:
            with memory.open(driver="GTiff", count=3, height=35, width=41, dtype=kind) as file:
                file.write(one)
            with memory.open() as file:
                expected = file.read(out_shape=(3, 8, 10), resampling=rasterio.enums.Resampling.bilinear)
            if is_picture:
                with picture.open(driver="JPEG", count=3, height=8, width=10, dtype=kind) as file:
                    file.write(expected)
                with picture.open() as file:
                    expected = file.read()
        np.testing.assert_array_equal(small, expected)


def test_what_a_jpeg_cannot_hold_is_refused() -> None:
    dn, valid = torch.zeros(1, 4, 8, 8, dtype=torch.uint8), torch.ones(1, 4, 8, 8, dtype=torch.bool)
    with pytest.raises(InputError, match="a JPEG has one or three bands of 8 bits, found 4 of type uint8"):
        reduced(dn, valid, 0.5, how="released", is_picture=True)


@pytest.mark.parametrize("how", ["plain", "released"])
def test_missing_pixels_stay_missing_where_they_have_half_of_the_weight(how: Literal["plain", "released"]) -> None:
    dn, valid = torch.full((1, 1, 8, 8), 7, dtype=torch.uint8), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    valid[:, :, :4] = False
    dn[:, :, :4] = 255
    found, seen = reduced(dn, valid, 0.25, how=how, is_picture=False)
    assert seen[0, 0].tolist() == [[False, False], [True, True]]
    if how == "plain":
        torch.testing.assert_close(found[seen], torch.full((2,), 7.0))


@pytest.mark.parametrize(("interpolation", "order"), [("bicubic", 3), ("bilinear", 1)])
def test_the_kernel_of_scikit_image_is_its_rescale(
    interpolation: str, order: int, tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    reader = TaskReader(tiny_encoder, class_data, _with(kernel="skimage", interpolation=interpolation, img_size=56))
    found = _only(reader.batches([2])).images[0].pixels[0]
    pixels = _standardised(tiny_encoder, class_data.read(2)).pixels[0].permute(1, 2, 0).numpy()
    scale = (56 / pixels.shape[0], 56 / pixels.shape[1], 1)
    expected = rescale(pixels, scale, order=order, anti_aliasing=True)
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_the_kernel_of_scikit_image_takes_whole_images_only(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    with pytest.raises(RecipeError, match=r"input\.kernel=skimage resizes whole images, and input\.resize=native cuts"):
        _with(kernel="skimage", resize="native")
    cropped = _augmented("whole", crop_area=(0.25, 0.5))
    reader = TaskReader(tiny_encoder, class_data, cropped.changed(input=cropped.input.changed(kernel="skimage")))
    with pytest.raises(InputError, match=r"input\.kernel=skimage resizes whole images, and these are crops"):
        list(reader.training_batches(0))
    turned = _augmented("whole", flips=True, quarter_turns=True)
    reader = TaskReader(tiny_encoder, class_data, turned.changed(input=turned.input.changed(kernel="skimage")))
    assert sum(len(batch.samples) for batch in reader.training_batches(0)) == len(class_data.split("train"))


def test_without_scikit_image_the_message_says_how_to_get_it(
    tiny_encoder: SensorEncoder, class_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.transform", None)
    reader = TaskReader(tiny_encoder, class_data, _with(kernel="skimage", img_size=56))
    with pytest.raises(InputError, match=r"needs scikit-image: pip install 'anyband\[skimage\]'"):
        list(reader.batches([2]))


def test_the_short_side_is_resized_and_the_centre_cut_out(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    def read(position: int) -> Sample:
        image = class_data.read(position).images[0]
        wide = np.concatenate([image.dn, image.dn[:, :, :20] + 300], axis=2)
        return Sample(images=(replace(image, dn=wide, valid=np.ones(wide.shape, dtype=bool), grid=None),))

    data = replace(class_data, read=read)
    found = _only(TaskReader(tiny_encoder, data, _with(resize="short_side")).batches([1])).images[0].pixels
    pixels = _standardised(tiny_encoder, data.read(1)).pixels
    resized = vision.resize(pixels, [37], interpolation=vision.InterpolationMode.BICUBIC, antialias=True)
    assert resized.shape[2:] == (37, 60)
    assert torch.allclose(found, resized[:, :, 2:34, 14:46], atol=1e-5)


def test_training_with_the_short_side_varies_what_is_scored(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    still = TaskReader(tiny_encoder, class_data, _augmented("short_side"))
    trained = {int(batch.samples[0]): batch.images[0].pixels[0] for batch in still.training_batches(0)}
    for sample, pixels in trained.items():
        assert torch.allclose(pixels, _only(still.batches([sample])).images[0].pixels[0], atol=1e-6)


def test_windows_of_own_pixels_are_exact_and_overlap_by_half(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    reader = TaskReader(tiny_encoder, class_map_data, _with(resize="native"))
    pixels = _standardised(tiny_encoder, class_map_data.read(3)).pixels[0]
    found = list(reader.windows(3))
    assert [(window.row, window.col) for _, window in found] == [(0, 0), (0, 16), (16, 0), (16, 16)]
    for batch, window in found:
        assert batch.samples.tolist() == [3]
        assert torch.equal(batch.images[0].pixels[0], pixels[:, *window.slices])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 100), (200, 31), (5, 5), (64, 47)])
def test_windows_cover_every_pixel_and_stay_inside(height: int, width: int) -> None:
    seen = np.zeros((height, width), dtype=int)
    for window in cover(height, width, 32):
        assert 0 <= window.row <= height - window.height
        assert 0 <= window.col <= width - window.width
        seen[window.slices] += 1
    assert seen.min() >= 1
    inner = seen[16:-16, 16:-16]
    assert height < 64 or width < 64 or inner.min() >= 4


def test_a_whole_image_is_one_window(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    reader = TaskReader(tiny_encoder, class_map_data, _RECIPE)
    ((batch, window),) = reader.windows(0)
    assert window == Window(row=0, col=0, height=48, width=48)
    assert batch.images[0].pixels.shape == (1, 4, 32, 32)


def test_small_images_are_filled_with_pixels_without_data_or_label(
    tiny_encoder: SensorEncoder, class_map_data: TaskData, number_map_data: TaskData
) -> None:
    def small(data: TaskData) -> TaskData:
        def read(position: int) -> Sample:
            sample = data.read(position)
            image = sample.images[0]
            return Sample(
                images=(replace(image, dn=image.dn[:, :20, :9], valid=image.valid[:, :20, :9], grid=None),),
                class_map=None if sample.class_map is None else sample.class_map[:20, :9],
                number_map=None if sample.number_map is None else sample.number_map[:20, :9],
            )

        return replace(data, read=read)

    reader = TaskReader(tiny_encoder, small(class_map_data), _with(resize="native"))
    batch = _only(reader.batches([1], targets=True))
    valid = batch.images[0].valid
    assert valid is not None
    assert bool(valid[:, :, :20, :9].all())
    assert int(valid.sum()) == 4 * 20 * 9
    assert torch.equal(
        batch.images[0].pixels[0, :, :20, :9], _standardised(tiny_encoder, reader.data.read(1)).pixels[0]
    )
    assert batch.targets is not None
    assert torch.equal(batch.targets[0, :20, :9], torch.from_numpy(reader.target(1)))
    assert bool((batch.targets[0, 20:] == -1).all() and (batch.targets[0, :, 9:] == -1).all())
    ((_, window),) = reader.windows(1)
    assert (window.height, window.width) == (20, 9)
    numbers = _only(TaskReader(tiny_encoder, small(number_map_data), _with(resize="native")).batches([1], targets=True))
    assert numbers.targets is not None
    assert bool(numbers.targets[0, 20:].isnan().all())


def _painted(data: TaskData) -> TaskData:
    """Images whose first band says the class of each pixel: 1000, 2000 or 3000; and labels everywhere."""

    def read(position: int) -> Sample:
        sample = data.read(position)
        assert sample.class_map is not None
        labels = np.maximum(sample.class_map, 0)
        dn = np.repeat((1000 + 1000 * labels)[None], 4, axis=0).astype(np.uint16)
        return Sample(images=(replace(sample.images[0], dn=dn),), class_map=labels)

    return replace(data, read=read)


def test_labels_move_with_their_images_in_training(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    data = _painted(class_map_data)
    reader = TaskReader(tiny_encoder, data, _augmented("native", flips=True, quarter_turns=True))
    levels = _standardised(tiny_encoder, data.read(0)).pixels[0, 0].unique()
    for batch in reader.training_batches(2):
        assert batch.targets is not None
        painted = levels[batch.targets]
        assert torch.equal(batch.images[0].pixels[:, 0], painted)


def test_labels_of_resized_crops_lie_on_their_images(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    data = _painted(class_map_data)
    recipe = _augmented("whole", flips=True, quarter_turns=True, crop_area=(0.3, 0.9))
    levels = _standardised(tiny_encoder, data.read(0)).pixels[0, 0].unique()
    agreed = [
        (batch.images[0].pixels[:, :1] - levels[:, None, None]).abs().argmin(dim=1) == batch.targets
        for batch in TaskReader(tiny_encoder, data, recipe).training_batches(2)
    ]
    # Away from the borders of classes, where the image is blurred.
    assert torch.cat(agreed).float().mean() > 0.93


def test_windows_of_training_hold_a_label_wherever_there_is_one(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    def read(position: int) -> Sample:
        sample = class_map_data.read(position)
        labels = np.full((48, 48), -1, dtype=np.int64)
        labels[47 - position % 3, position * 2] = 1
        return replace(sample, class_map=labels)

    reader = TaskReader(tiny_encoder, replace(class_map_data, read=read), _augmented("native", flips=True))
    for epoch in range(3):
        for batch in reader.training_batches(epoch):
            assert batch.targets is not None
            assert (batch.targets >= 0).sum(dim=(1, 2)).tolist() == [1] * len(batch.samples)


def test_windows_of_training_differ_between_epochs_and_need_no_labels(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    def read(position: int) -> Sample:
        sample = class_map_data.read(position)
        return replace(sample, class_map=np.full((48, 48), -1, dtype=np.int64))

    reader = TaskReader(tiny_encoder, replace(class_map_data, read=read), _augmented("native"))
    one, other = (next(reader.training_batches(epoch)) for epoch in (0, 1))
    assert one.images[0].pixels.shape == other.images[0].pixels.shape
    assert not torch.equal(one.images[0].pixels, other.images[0].pixels)


def test_images_of_other_resolutions_show_the_same_ground_in_every_window(
    tiny_encoder: SensorEncoder, change_data: TaskData
) -> None:
    """A ramp over the ground, at 10 m and at 30 m: it reads the same wherever it is cut."""

    def read(position: int) -> Sample:
        sample = change_data.read(position)
        # The centre of a coarse pixel is that of the middle one of three by three fine ones.
        fine = np.mgrid[0:48, 0:48].sum(axis=0) * 10 + 1000
        coarse = np.mgrid[0:16, 0:16].sum(axis=0) * 30 + 1020
        ramps = [np.repeat(one[None], 4, axis=0).astype(np.float32) for one in (fine, coarse)]
        images = tuple(
            replace(image, dn=ramp, valid=np.ones(ramp.shape, dtype=bool), grid=None)
            for image, ramp in zip(sample.images, ramps, strict=True)
        )
        return replace(sample, images=images)

    reader = TaskReader(tiny_encoder, replace(change_data, read=read), _with(resize="native"))
    for batch, _ in reader.windows(0):
        # Pixels outside of a window are not looked at, so that lines bend at its edges.
        fine, coarse = (image.pixels[0, :, 6:-6, 6:-6] for image in batch.images)
        assert torch.allclose(fine, coarse, atol=1e-3)


def test_samples_of_several_shapes_stand_in_their_order(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    def read(position: int) -> Sample:
        image = class_data.read(position).images[0]
        side = 32 - 8 * (position % 2)
        return Sample(
            images=(replace(image, dn=image.dn[:, :side, :side], valid=image.valid[:, :side, :side], grid=None),)
        )

    reader = TaskReader(tiny_encoder, replace(class_data, read=read), _RECIPE)
    batch = _only(reader.batches([4, 3, 8, 7, 0]))
    assert batch.samples.tolist() == [4, 3, 8, 7, 0]
    for place, sample in enumerate([4, 3, 8, 7, 0]):
        assert torch.allclose(
            batch.images[0].pixels[place], _only(reader.batches([sample])).images[0].pixels[0], atol=1e-6
        )


def test_a_batch_holds_one_kind_of_sensors(tiny_encoder: SensorEncoder, pair_data: TaskData) -> None:
    def read(position: int) -> Sample:
        sample = pair_data.read(position)
        return replace(sample, images=sample.images[: 1 + position % 2])

    sensors = tuple(pair_data.sensors[index][: 1 + index % 2] for index in range(len(pair_data)))
    reader = TaskReader(tiny_encoder, replace(pair_data, read=read, sensors=sensors), _RECIPE)
    batches = list(reader.batches(range(12)))
    assert [len(batch.images) for batch in batches] == [1, 2]
    assert [batch.samples.tolist() for batch in batches] == [list(range(0, 12, 2)), list(range(1, 12, 2))]
    trained = list(reader.training_batches(0))
    assert len(trained) == len(reader.training_order(0))
    assert all(len(set((batch.samples % 2).tolist())) == 1 for batch in trained)
