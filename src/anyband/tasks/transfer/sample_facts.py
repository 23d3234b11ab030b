"""What is known of the images of samples beside their pixels: where they lie, how fine they are, and when."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from anyband.data.augment import Augmentation, input_corners, input_gsd_m
from anyband.data.supervised.records import SampleImage
from anyband.data.tiles import Grid
from anyband.models.inputs import SetMetadata
from anyband.shapes import Array, Float
from anyband.tasks.feature_records import ImageMetadata
from anyband.tasks.image_metadata import CheckedFacts, check_one_footprint, checked_facts
from anyband.tasks.metadata import set_metadata
from anyband.tasks.transfer.reading_samples import InputRules, Member, short_side_box

__all__ = ["facts_of", "sample_metadata"]


def facts_of(member: Member) -> list[CheckedFacts]:
    """Take what is known of each image of a sample, and see that all show one piece of ground.

    Raises:
        GeometryError: images of a sample show different ground.
        InputError: a date lies in the future.
    """
    names = [
        f"'{member.name}', image {slot + 1} ({image.sensor.name})" for slot, image in enumerate(member.sample.images)
    ]
    facts = [_facts(image, name) for image, name in zip(member.sample.images, names, strict=True)]
    check_one_footprint(facts, names)
    return facts


def sample_metadata(
    members: Sequence[Member], facts: Sequence[Sequence[CheckedFacts]], rules: InputRules, boxes: Augmentation
) -> SetMetadata:
    """Bring the facts of samples to what networks take, for the part of each image that the network sees.

    Args:
        members: the samples, all of one shape.
        facts: of each image of each.
        rules: how images meet the network's size.
        boxes: of each sample, on `box_grid`.
    """
    slots = range(len(members[0].sample.images))
    corners_deg = np.array([[one.corners_deg for one in images] for images in facts])
    gsd_m = np.array([[one.gsd_m for one in images] for images in facts])
    time = np.array([[one.time for one in images] for images in facts])
    shape_px = np.array([[image.dn.shape[1:] for image in member.sample.images] for member in members])
    size = rules.img_size
    if rules.resize == "short_side":
        everyone = np.zeros(len(members), dtype=np.int64)
        parts = [slice(slot, slot + 1) for slot in slots]
        centres = [short_side_box(members[0].sample.images[slot].dn.shape[1:], size).of(everyone) for slot in slots]
        pairs = list(zip(centres, parts, strict=True))
        seen_m = np.concatenate(
            [input_gsd_m(one, gsd_m[:, part], shape_px[:, part], img_size=size) for one, part in pairs], axis=1
        )
        corners_deg = np.concatenate([input_corners(one, corners_deg[:, part]) for one, part in pairs], axis=1)
    else:
        seen_m = input_gsd_m(boxes, gsd_m, shape_px, img_size=size)
    return set_metadata(input_corners(boxes, corners_deg), gsd_m, time, seen_m)


def _facts(image: SampleImage, name: str) -> CheckedFacts:
    located = image.grid is not None and image.grid.crs is not None
    gsd_m = image.grid.gsd_m if image.grid is not None and located else None
    said = ImageMetadata(
        gsd_m=gsd_m if gsd_m is not None and math.isfinite(gsd_m) and gsd_m > 0 else None, datetime=image.datetime
    )
    facts = checked_facts(said, name=name)
    return replace(facts, corners_deg=_corners_deg(image.grid)) if image.grid is not None and located else facts


def _corners_deg(grid: Grid) -> Float[Array, "4 2"]:
    # Late: images without a place need no geographic library.
    from anyband.data.places import corners_lonlat

    assert grid.crs is not None
    return np.array(corners_lonlat(grid.transform, grid.height, grid.width, grid.crs))
