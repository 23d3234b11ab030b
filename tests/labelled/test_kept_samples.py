"""Samples are read once while they fit into memory, and each caller has its own."""

import numpy as np

from anyband.labelled.samples import Sample, SampleImage, keep_samples
from anyband.sensors.catalogue import get_sensor

_SENSOR = get_sensor("sentinel2-l2a").select(("B02",))


class _Files:
    """Counts how often each sample is read. A sample has 4 × 4 pixels: 32 + 16 + 128 bytes."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def read(self, position: int) -> Sample:
        self.asked.append(position)
        dn = np.full((1, 4, 4), position, dtype=np.uint16)
        image = SampleImage(dn=dn, valid=np.ones((1, 4, 4), dtype=bool), sensor=_SENSOR)
        return Sample(images=(image,), class_map=np.full((4, 4), position, dtype=np.int64))


def test_a_sample_is_read_once() -> None:
    files = _Files()
    read = keep_samples(files.read)
    for _ in range(3):
        assert [int(read(position).images[0].dn[0, 0, 0]) for position in (0, 1)] == [0, 1]
    assert files.asked == [0, 1]


def test_what_does_not_fit_is_read_again_and_what_came_first_stays() -> None:
    files = _Files()
    read = keep_samples(files.read, most_bytes=2 * 176)
    for _ in range(2):
        for position in range(3):
            read(position)
    assert files.asked == [0, 1, 2, 2]


def test_what_a_caller_changes_stays_its_own() -> None:
    read = keep_samples(_Files().read)
    for _ in range(3):
        sample = read(5)
        assert (sample.images[0].dn == 5).all()
        assert (sample.class_map == 5).all()
        sample.images[0].dn[:] = 0
        sample.images[0].valid[:] = False
        sample.class_map[:] = -1
