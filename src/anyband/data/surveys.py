"""What the images of a run say of themselves, of so many images that it would fill memory: it stays in the journal."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from anyband.data.cutting import ImageSurvey
from anyband.data.jobs import Journal
from anyband.data.manifest import ImageEntry
from anyband.data.places import PlacedImage
from anyband.lazy_sequence import LazySequence
from anyband.shapes import Array, Int

__all__ = ["PlacedImages", "Surveys", "survey_key"]

# chosen: the images of a place are asked for several times, soon after each other.
_KEPT = 1024


def survey_key(image: int) -> str:
    """Name the survey of an image in the journal."""
    return f"survey {image}"


class Surveys(Mapping[int, ImageSurvey]):
    """Number of the image → its survey, for the images that are used; read from the journal when it is asked for."""

    def __init__(self, journal: Journal, num_images: int) -> None:
        """Begin without any image.

        Args:
            journal: holds the surveys.
            num_images: images of the run, used or not.
        """
        self._journal = journal
        self._used = np.zeros(num_images, dtype=bool)
        self._count = 0
        self._read = lru_cache(maxsize=_KEPT)(self._from_journal)

    def use(self, image: int) -> None:
        """Take an image whose survey is in the journal."""
        self._count += not self._used[image]
        self._used[image] = True

    @property
    def images(self) -> Int[Array, " image"]:
        """Numbers of the images that are used, ascending."""
        return np.flatnonzero(self._used)

    def __getitem__(self, image: int) -> ImageSurvey:
        if image not in self:
            raise KeyError(image)
        return self._read(image)

    def __contains__(self, image: object) -> bool:
        return isinstance(image, int) and 0 <= image < len(self._used) and bool(self._used[image])

    def __iter__(self) -> Iterator[int]:
        yield from self.images.tolist()

    def __len__(self) -> int:
        return self._count

    def _from_journal(self, image: int) -> ImageSurvey:
        return ImageSurvey.from_dict(self._journal.results[survey_key(image)])


class PlacedImages(LazySequence[PlacedImage]):
    """What decides the places of the images that are used, in the order of their numbers."""

    def __init__(self, entries: Sequence[ImageEntry], surveys: Surveys) -> None:
        """Look at entries and surveys when an image is asked for."""
        self._entries = entries
        self._surveys = surveys
        self.numbers = surveys.images
        """Number of each image in `entries`."""
        self._read = lru_cache(maxsize=_KEPT)(self._placed)

    def __len__(self) -> int:
        return len(self.numbers)

    def make(self, number: int) -> PlacedImage:
        return self._read(int(self.numbers[number]))

    def _placed(self, image: int) -> PlacedImage:
        entry = self._entries[image]
        grid = self._surveys[image].grid
        return PlacedImage(name=entry.name, grid=grid, place=entry.place, split=entry.split)
