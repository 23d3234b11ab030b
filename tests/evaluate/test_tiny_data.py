"""The labelled data that the tests of transfer share."""

import numpy as np
import pytest

from anyband.encode.encoder import EncodeOptions, SensorEncoder
from anyband.labelled.samples import TaskData


@pytest.mark.parametrize(
    "name",
    ["class_data", "labels_data", "number_data", "pair_data", "class_map_data", "number_map_data", "change_data"],
)
def test_each_kind_reads_the_sensors_that_it_declares(name: str, request: pytest.FixtureRequest) -> None:
    data: TaskData = request.getfixturevalue(name)
    sample = data.read(1)
    assert tuple(image.sensor for image in sample.images) == data.sensors[1]
    assert min(data.num_samples.values()) > 1


def test_the_tiny_encoder_tells_the_classes_apart(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    images = [class_data.read(index).images[0] for index in range(6)]
    features = tiny_encoder.encode(
        np.stack([one.dn for one in images]), sensor=images[0].sensor, options=EncodeOptions()
    ).cls.numpy()
    same, other = np.linalg.norm(features[0] - features[3]), np.linalg.norm(features[0] - features[1])
    assert same < other
