"""Training on pairs gives the losses that release 0.1 gave, whatever was built since."""

import pytest

from anyband.pretraining.cost import read_metrics
from anyband.pretraining.loop import pretrain
from anyband.pretraining.recipe import load_recipe

# Recorded with release 0.1 (commit f9e24ab) on the same store, in float32 on one CPU: four steps, then validation.
_RECORDED = {
    "mirrored": [1.6641592979, 1.5339801311, 1.4840095043, 1.4656829834, 1.4797382355],
    "released": [1.6602826118, 1.5443788767, 1.4853129387, 1.4473433495, 1.4567397833],
    "none": [1.6384109259, 1.5022196770, 1.4536142349, 1.4237201214, 1.4306476116],
}
_OVERRIDES = [
    "model.img_size=32",
    "model.depth=3",
    "optim.batch_size=8",
    "optim.steps=4",
    "optim.precision=32-true",
    "run.panel_every_steps=0",
    "run.log_every_steps=1",
    "run.checkpoint_every_steps=4",
    "run.val_batches=1",
    "run.accelerator=cpu",
    "run.devices=1",
]


@pytest.mark.parametrize("mixup", list(_RECORDED))
def test_losses_of_pairs_are_those_of_the_first_release(mixup, pair_store, tmp_path):
    recipe = load_recipe("smarties_tiny", [*_OVERRIDES, f"model.mixup={mixup}"])
    pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    found = [*(float(row["loss"]) for row in rows), float(rows[-1]["val_loss"])]
    assert found == pytest.approx(_RECORDED[mixup], abs=1e-5)
