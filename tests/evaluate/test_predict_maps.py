"""Whole maps from windows, losses of maps, and counts."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from torch.nn import functional

from anyband.encode.encoder import SensorEncoder
from anyband.evaluate.features import FusedEncoder
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.maps import (
    ClassMaps,
    MapNetwork,
    joined_windows,
    predict_whole,
    predict_windows,
)
from anyband.evaluate.metrics import confusion_of
from anyband.evaluate.recipe import InputRecipe, Resize, TransferRecipe
from anyband.labelled.samples import DataSpec, TaskData
from anyband.models.heads import make_head
from anyband.rasters.grid import Window, window_starts


def _windows(image: np.ndarray, shape: tuple[int, int]) -> Iterator[tuple[Window, np.ndarray]]:
    height, width = shape
    for row in window_starts(image.shape[1], height, max(1, height // 2)):
        for col in window_starts(image.shape[2], width, max(1, width // 2)):
            window = Window(row=row, col=col, height=height, width=width)
            yield window, image[:, *window.slices]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 12), st.integers(0, 12))
def test_windows_of_an_image_give_it_back(height: int, width: int, more_rows: int, more_cols: int) -> None:
    shape = (height + more_rows, width + more_cols)
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    strips = list(joined_windows(_windows(image, (height, width)), size=shape))
    assert np.allclose(np.concatenate(strips, axis=1), image, atol=1e-5)


def test_windows_of_one_number_give_that_number() -> None:
    image = np.full((3, 50, 40), 2.5, dtype=np.float32)
    joined = np.concatenate(list(joined_windows(_windows(image, (16, 16)), size=(50, 40))), axis=1)
    assert np.allclose(joined, 2.5, atol=1e-6)


def test_a_window_as_large_as_the_image_is_the_image() -> None:
    image = np.random.default_rng(0).normal(size=(2, 7, 9)).astype(np.float32)
    (joined,) = joined_windows([(Window(row=0, col=0, height=7, width=9), image)], size=(7, 9))
    assert np.allclose(joined, image, atol=1e-6)


def _network_and_reader(
    encoder: SensorEncoder, data: TaskData, *, resize: Resize, img_size: int
) -> tuple[MapNetwork, TaskReader]:
    images = InputRecipe(resize=resize, img_size=img_size)
    recipe = TransferRecipe(name="maps", data=DataSpec(source="memory", kind="class_map"), input=images)
    fused = FusedEncoder(encoder, fusion="single", pool="cls", seed=0, metadata=True)
    head = make_head("upernet", width=32, num_outputs=3, channels=8, seed=0).eval()
    network = MapNetwork(head, fused, blocks=(0, 1, 2, 3), img_size=img_size, frozen="float32")
    return network, TaskReader(encoder, data, recipe)


def test_an_image_of_one_window_is_predicted_as_a_whole_one(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    network, native = _network_and_reader(tiny_encoder, class_map_data, resize="native", img_size=48)
    _, whole = _network_and_reader(tiny_encoder, class_map_data, resize="whole", img_size=48)
    joined = predict_windows(network, native.windows(3), read=lambda outputs: outputs[1], size=(48, 48))
    ((sample, once),) = predict_whole(
        network, whole.batches([3]), read=lambda outputs: outputs[1], size_of=lambda _: (48, 48)
    )
    assert sample == 3
    assert np.allclose(joined, once, atol=1e-4)


def test_an_image_smaller_than_a_window_is_predicted_at_its_own_size(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    network, reader = _network_and_reader(tiny_encoder, class_map_data, resize="native", img_size=64)
    found = predict_windows(network, reader.windows(3), read=lambda outputs: outputs[0], size=(48, 48))
    assert found.shape == (48, 48)
    assert np.isfinite(found).all()


def test_maps_come_at_the_size_that_each_sample_asks_for(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    network, reader = _network_and_reader(tiny_encoder, class_map_data, resize="whole", img_size=32)
    kind = ClassMaps(len(class_map_data.classes))
    sizes = {2: (48, 48), 5: (100, 20)}
    found = dict(predict_whole(network, reader.batches([2, 5]), read=kind.read, size_of=sizes.__getitem__))
    assert {sample: one.shape for sample, one in found.items()} == sizes


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_confusion_is_that_of_scikit_learn(seed: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(-1, num_classes, (6, 7)), rng.integers(0, num_classes, (6, 7))
    truth[0, 0] = 0
    expected = confusion_matrix(truth[truth >= 0], predicted[truth >= 0], labels=range(num_classes))
    assert np.array_equal(confusion_of(truth, predicted, num_classes=num_classes), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_labelled_pixels(smoothing: float) -> None:
    numbers = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 4, 5, 6), generator=numbers)
    classes = torch.randint(-1, 4, (2, 5, 6), generator=numbers)
    pixels, labels = logits.permute(0, 2, 3, 1)[classes >= 0], classes[classes >= 0]
    # Written out: a share of the label goes to all classes of its own pixel.
    shares = functional.one_hot(labels, 4) * (1 - smoothing) + smoothing / 4
    expected = -(shares * pixels.log_softmax(dim=1)).sum(dim=1).mean()
    assert torch.allclose(ClassMaps(4, label_smoothing=smoothing).loss(logits, classes), expected, atol=1e-6)


def test_pixels_without_a_label_get_no_gradient() -> None:
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    ClassMaps(3, label_smoothing=0.1).loss(logits, torch.tensor([[[0, -1], [-1, 2]]])).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(dim=1).gt(0).flatten().tolist() == [True, False, False, True]


def test_a_batch_without_labels_has_no_loss() -> None:
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = ClassMaps(3).loss(logits, torch.full((1, 2, 2), -1))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_an_ignored_sample_leaves_scores_alone() -> None:
    kind = ClassMaps(2)
    counts = np.array([[[3, 1], [0, 4]], [[0, 0], [0, 0]]])
    assert kind.score(counts) == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert np.isnan(kind.score(counts[1:]))


def _dice(probabilities: np.ndarray, wanted: np.ndarray) -> float:
    """V-Net's score with denominators of first order, of one class of one image."""
    return float((2 * (probabilities * wanted).sum() + 1e-6) / (probabilities.sum() + wanted.sum() + 1e-6))


@pytest.mark.parametrize("num_classes", [2, 4])
def test_dice_loss_is_one_minus_the_mean_score_of_images_and_classes(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, num_classes, 5, 6)).astype(np.float32)
    classes = rng.integers(-1, num_classes, (3, 5, 6))
    classes[2] = -1
    exponents = np.exp(logits)
    shares = exponents / exponents.sum(axis=1, keepdims=True)
    counted = range(1, 2) if num_classes == 2 else range(num_classes)
    scores = [
        _dice(shares[image, one][classes[image] >= 0], (classes[image] == one)[classes[image] >= 0])
        for image in range(2)
        for one in counted
    ]
    found = ClassMaps(num_classes, loss="dice").loss(torch.from_numpy(logits), torch.from_numpy(classes))
    assert found.item() == pytest.approx(1 - np.mean(scores), abs=1e-5)


def test_dice_loss_of_two_classes_is_that_of_one_logit() -> None:
    """As PANGAEA trains buildings: the sigmoid of one output, and the Dice score of the class alone."""
    logit, classes = torch.randn(2, 1, 4, 4), torch.randint(0, 2, (2, 4, 4))
    two = torch.cat([torch.zeros_like(logit), logit], dim=1)
    probability, wanted = logit[:, 0].sigmoid(), classes.float()
    both, all_ = ((one + 1e-6) for one in ((2 * probability * wanted).sum((1, 2)), (probability + wanted).sum((1, 2))))
    found = ClassMaps(2, loss="dice").loss(two, classes)
    torch.testing.assert_close(found, 1 - (both / all_).mean())


def test_dice_loss_without_labels_is_zero_and_has_a_gradient() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = ClassMaps(3, loss="dice").loss(logits, torch.full((1, 2, 2), -1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
