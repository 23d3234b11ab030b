"""`data.stretch` from a recipe to the network's input, to the checkpoint, and back."""

import dataclasses

import numpy as np
import pytest
import torch

from anyband.data.harmonise import restore, standardise
from anyband.data.store import ChipStore
from anyband.encode.input_spec import input_spec_for
from anyband.models.checkpoint import load_checkpoint
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import plan_run
from anyband.sensors.assignment import AssignmentRules
from anyband.sensors.catalogue import get_sensor


@pytest.fixture
def stretches(pair_store, changed):
    """The normalisation of Sentinel-2 by each stretch."""
    store = ChipStore.open(pair_store)
    found = {}
    for stretch in ("percentiles", "two_sigma"):
        inputs = plan_run(changed(data={"stretch": stretch}), store).inputs
        found[stretch] = next(one.normalisation for name, one in inputs.items() if "sentinel2" in name)
    return found


def test_two_sigma_maps_mean_and_deviation(stretches) -> None:
    """Mean becomes ½, one deviation a quarter, what lies further out than two is cut; for each band."""
    n = stretches["percentiles"]
    mean = [low + share * (high - low) for low, high, share in zip(n.p01, n.p99, n.mean, strict=True)]
    std = [share * (high - low) for low, high, share in zip(n.p01, n.p99, n.std, strict=True)]
    for sigmas, expected in ((0, 0.5), (1, 0.75), (-1, 0.25), (2, 1.0), (-2, 0.0), (3, 1.0), (-5, 0.0)):
        physical = np.array([m + sigmas * s for m, s in zip(mean, std, strict=True)])
        stored = torch.from_numpy((physical - n.offset) / n.scale).float().reshape(-1, 1, 1)
        np.testing.assert_allclose(standardise(stored, stretches["two_sigma"]).ravel(), expected, atol=1e-4)


def test_restoring_gives_physical_units_for_both(stretches) -> None:
    stored = torch.full((3, 1, 1), 500.0)
    for n in stretches.values():
        np.testing.assert_allclose(restore(standardise(stored, n), n).ravel(), 0.05, rtol=1e-5)


def test_a_trained_network_reads_sensors_as_it_was_trained(pair_store, changed, tmp_path, stretches) -> None:
    recipe = changed(data={"stretch": "two_sigma"}, optim={"steps": 1})
    checkpoint = load_checkpoint(pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False).checkpoint)
    sensor = get_sensor("sentinel2-l2a").select(["B02", "B03", "B04"])
    found = input_spec_for(checkpoint, sensor, rules=AssignmentRules()).normalisation
    assert (found.p01, found.p99) == (stretches["two_sigma"].p01, stretches["two_sigma"].p99)
    # A sensor that it was not trained on is stretched alike, with the catalogue's numbers.
    unseen = input_spec_for(checkpoint, get_sensor("maxar-rgb"), rules=AssignmentRules()).normalisation
    forgetful = dataclasses.replace(checkpoint, recipe=None)
    plain = input_spec_for(forgetful, get_sensor("maxar-rgb"), rules=AssignmentRules()).normalisation
    assert unseen.std == (1.0, 1.0, 1.0)
    centre = [(low + high) / 2 for low, high in zip(unseen.p01, unseen.p99, strict=True)]
    mean = [low + share * (high - low) for low, high, share in zip(plain.p01, plain.p99, plain.mean, strict=True)]
    np.testing.assert_allclose(centre, mean)
