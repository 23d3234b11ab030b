"""Pre-training on sets: the same core as for pairs, and what is of sets alone."""

import pytest

from anyband.models.a2mae import SetAutoencoder
from anyband.models.checkpoint import build_model, load_checkpoint
from anyband.tasks.pretrain import pretrain


@pytest.fixture(scope="module")
def finished(set_store, changed_sets, tmp_path_factory):
    """A finished run with panels: the folder, the recipe and the result."""
    out = tmp_path_factory.mktemp("finished_sets") / "run"
    recipe = changed_sets(run={"panel_every_steps": 6, "log_every_steps": 2})
    return out, recipe, pretrain(recipe, data=set_store, out=out, shown=False)


def test_a_run_on_sets_leaves_what_a_run_on_pairs_leaves(finished):
    _, _, result = finished
    assert result.steps == 12
    model = build_model(load_checkpoint(result.checkpoint))
    assert isinstance(model, SetAutoencoder)
