"""A range with weights that learned nothing is not read by, and is said to be untrained."""

from dataclasses import replace

import numpy as np
import pytest

from anyband.errors import AssignmentError, CatalogueError
from anyband.sensors.assignment import AssignmentRules, assign
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import (
    RangeTable,
    load_ranges,
    range_table_from_dict,
    range_table_to_dict,
    without_range,
)

_RGB = ("red_1", "green_1", "blue_3")


@pytest.fixture
def table() -> RangeTable:
    return replace(load_ranges("smarties_v1"), untrained=_RGB)


def test_its_bands_are_read_by_trained_ranges_alone(table: RangeTable) -> None:
    found = assign(get_sensor("maxar-rgb"), table)
    columns = [table.range_names.index(name) for name in _RGB]
    assert found.origin == ("untrained",) * 3
    assert not found.mixing[:, columns].any()
    np.testing.assert_allclose(found.mixing.sum(axis=1), 1)


def test_their_share_and_support_are_those_of_a_table_without_it(table: RangeTable) -> None:
    """What was not trained counts as if it were not there."""
    left = table
    for name in _RGB:
        left = without_range(left, name)
    sensor = get_sensor("maxar-rgb")
    there, absent = assign(sensor, table), assign(sensor, left)
    assert left.untrained == ()
    assert there.support == absent.support
    assert there.support == pytest.approx((62 / 120, 92 / 154, 1.0))
    np.testing.assert_array_equal(there.mixing[:, list(table.learned)], absent.mixing)


def test_bands_beside_it_are_not_mixed_from_it(table: RangeTable) -> None:
    trained = load_ranges("smarties_v1")
    sensor = get_sensor("landsat8-oli-tirs-l2")
    columns, across = [table.range_names.index(name) for name in _RGB], AssignmentRules(unseen="interpolate_across")
    assert assign(sensor, trained, across).mixing[:, columns].any()
    assert not assign(sensor, table, across).mixing[:, columns].any()


def test_a_trained_range_is_still_exact(table: RangeTable) -> None:
    found = assign(get_sensor("sentinel2-l2a"), table)
    assert set(found.origin) == {"exact"}
    assert found.report() == ""


def test_the_report_says_it(table: RangeTable) -> None:
    lines = assign(get_sensor("maxar-rgb"), table).report().splitlines()
    assert lines[0] == "maxar-rgb: 0 of 3 bands are exactly known to 'smarties_v1'"
    assert all(": its own range was not trained, support " in line for line in lines[1:])


@pytest.mark.parametrize(
    ("rule", "message"), [("refuse", "not trained|no trained range"), ("released", "declares nothing")]
)
def test_rules_that_invent_nothing_refuse_it(table: RangeTable, rule: str, message: str) -> None:
    with pytest.raises(AssignmentError, match=message):
        assign(get_sensor("maxar-rgb"), table, AssignmentRules(unseen=rule))  # type: ignore[arg-type]


def test_min_support_drops_it(table: RangeTable) -> None:
    with pytest.raises(AssignmentError, match=r"its support, 0\.\d+, is under min_support, 0\.99"):
        assign(get_sensor("maxar-rgb"), table, AssignmentRules(min_support=0.99, out_of_span="refuse"))
    sensor = get_sensor("maxar-rgb")
    read = assign(sensor, table)
    least = min(read.support)
    rules = AssignmentRules(min_support=float(np.nextafter(least, 1)), out_of_span="drop")
    assert "dropped" in assign(sensor, table, rules).origin


def test_headers_keep_it(table: RangeTable) -> None:
    assert range_table_from_dict(range_table_to_dict(table)) == table
    assert "untrained" not in range_table_to_dict(load_ranges("smarties_v1"))


def test_a_name_that_is_no_range_is_refused() -> None:
    with pytest.raises(CatalogueError, match="has no range 'red_9'"):
        replace(load_ranges("smarties_v1"), untrained=("red_9",))
