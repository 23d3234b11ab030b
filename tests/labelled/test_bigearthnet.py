"""The labels of BigEarthNet."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from torchgeo.datasets import BigEarthNet

from anyband.errors import ManifestError
from anyband.labelled.published import CLASSES_19, CLASSES_43, to_19_classes


def test_names_and_order_are_those_of_torchgeo() -> None:
    assert list(CLASSES_43) == BigEarthNet.class_sets[43]
    assert list(CLASSES_19) == BigEarthNet.class_sets[19]


@pytest.mark.parametrize("name", CLASSES_43)
def test_each_of_the_43_classes_goes_where_torchgeo_puts_it(name: str) -> None:
    position = BigEarthNet.label_converter.get(CLASSES_43.index(name))
    assert to_19_classes([name], patch="p") == (() if position is None else (CLASSES_19[position],))


def test_every_one_of_the_19_is_reached() -> None:
    assert to_19_classes(CLASSES_43, patch="p") == CLASSES_19


@given(st.lists(st.sampled_from(CLASSES_43)))
def test_order_and_repetition_of_labels_do_not_matter(names: list[str]) -> None:
    assert to_19_classes(names, patch="p") == to_19_classes(set(names), patch="p")


@given(st.lists(st.sampled_from(CLASSES_43)))
def test_translating_again_changes_nothing(names: list[str]) -> None:
    once = to_19_classes(names, patch="p")
    assert to_19_classes(once, patch="p") == once


def test_an_unknown_label_is_refused_with_the_nearest() -> None:
    with pytest.raises(ManifestError, match=r"patch 'p' has the label 'Mixed forrest'.*did you mean 'Mixed forest'\?"):
        to_19_classes(["Mixed forrest"], patch="p")
