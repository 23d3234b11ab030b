"""A training step never waits for its device: nothing of it depends on values there, and no copy is waited for.

Tensors of the device `meta` have shapes and no values: whatever asks for a value fails. A copy from the host counts as
waiting unless it goes through `to_device`, which takes memory that a GPU reads by itself.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anyband import arrays
from anyband.data.store import ChipStore
from anyband.models.autoencoder import Autoencoder
from anyband.pretraining.batches import BatchPreparer
from anyband.pretraining.plan import plan_run
from anyband.pretraining.recipe import load_recipe

_META = torch.device("meta")
_SMALL = ["model.img_size=32", "model.depth=2", "optim.batch_size=8"]
_PAIRS = ["smarties_tiny"]
_SETS = ["a2mae_tiny", "unified_tiny"]


class _Copies(TorchDispatchMode):
    """Notes what is copied from the host to the device beside `to_device`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.waited_for: list[str] = []
        self._allowed = 0
        original = arrays.to_device

        def to_device(values, device):
            self._allowed += 1
            try:
                return original(values, device)
            finally:
                self._allowed -= 1

        for module in ("arrays", "data.harmonise", "data.resample", "models.encodings", "pretraining.batches"):
            monkeypatch.setattr(f"anyband.{module}.to_device", to_device)

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        given = [one for one in arguments if isinstance(one, torch.Tensor)]
        to_meta = isinstance(made, torch.Tensor) and made.device == _META
        if to_meta and not self._allowed and any(one.device.type == "cpu" and one.ndim for one in given):
            self.waited_for.append(str(function))
        return made


def _example(recipe_name, store, overrides=()):
    recipe = load_recipe(recipe_name, [*_SMALL, *overrides])
    plan = plan_run(recipe, ChipStore.open(store))
    preparer = BatchPreparer(recipe, plan.inputs, device=_META)
    draw = plan.samples.sampler(batch_size=8, seed=0).batch(0)
    return plan, preparer, preparer.draw(plan.samples.read(draw), step=0)


@pytest.mark.parametrize("recipe", _PAIRS)
@pytest.mark.parametrize("overrides", [(), ("model.decode_ratio=0.5",), ("model.levels=true",)])
def test_a_step_on_pairs_asks_for_no_value_and_waits_for_no_copy(recipe, overrides, pair_store, monkeypatch):
    assert _waited_for(recipe, pair_store, overrides, monkeypatch) == []


@pytest.mark.parametrize("recipe", _SETS)
def test_a_step_on_sets_asks_for_no_value_and_waits_for_no_copy(recipe, pair_store, monkeypatch):
    assert _waited_for(recipe, pair_store, ("data.sets.size=[2, 2]",), monkeypatch) == []


def _waited_for(recipe, store, overrides, monkeypatch):
    """Do a step on the device without values; tell which copies it waited for."""
    plan, preparer, drawn = _example(recipe, store, overrides)
    model = Autoencoder(plan.config, seed=0).to(_META)
    with _Copies(monkeypatch) as copies:
        example = preparer.finish(drawn)
        counts = model.count(*example)
        terms = model(*example).terms
        (terms * counts).sum().backward()
    assert all(parameter.grad is not None for parameter in model.encoder.blocks.parameters())
    return copies.waited_for


def test_asking_for_a_value_would_be_noticed():
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.ones(3, device=_META).any())


def test_a_copy_that_is_waited_for_would_be_noticed(monkeypatch):
    with _Copies(monkeypatch) as copies:
        torch.ones(3).to(_META)
    assert copies.waited_for
