"""The linear probe."""

import numpy as np
import pytest
import torch

from anyband.errors import InputError
from anyband.evaluate import probes
from anyband.evaluate.metrics import LabelledFeatures
from anyband.evaluate.probes import LinearProbe, fit_linear_probe, probe_scores
from anyband.evaluate.recipe import LinearRecipe

_NAMES = ("water", "forest", "field")


def _labelled(seed: int, count: int = 120, *, multi_label: bool = False) -> LabelledFeatures:
    draw = np.random.default_rng(seed)
    numbers = np.arange(count) % 3
    features = draw.normal(size=(count, 8)) + 4 * np.eye(3, 8)[numbers]
    labels = numbers[:, None] == np.arange(3) if multi_label else numbers
    return LabelledFeatures(features=features, labels=labels, classes=_NAMES)


_FAST = LinearRecipe(epochs=10, base_lr=0.1)


@pytest.mark.parametrize("multi_label", [False, True])
def test_separable_classes_are_learned(multi_label: bool) -> None:
    train, validation = (_labelled(seed, multi_label=multi_label) for seed in (0, 1))
    fit = fit_linear_probe(train, validation, LinearRecipe(epochs=60, base_lr=0.1), seed=0)
    scores = probe_scores(fit.probe, _labelled(2).features)
    assert (scores.argmax(axis=1) == _labelled(2).labels).mean() > 0.95


def test_equal_seeds_give_equal_weights_whatever_the_global_generator() -> None:
    fits = []
    for state in (1, 2):
        torch.manual_seed(state)
        fits.append(fit_linear_probe(_labelled(0), _labelled(1), _FAST, seed=5))
    assert torch.equal(fits[0].probe.linear.weight, fits[1].probe.linear.weight)
    other = fit_linear_probe(_labelled(0), _labelled(1), _FAST, seed=6)
    assert not torch.equal(fits[0].probe.linear.weight, other.probe.linear.weight)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    fit_linear_probe(_labelled(0), _labelled(1), _FAST, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_epoch_with_the_best_validation_score_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([0.2, 0.9, 0.9, 0.1])
    states = []

    def score(probe: LinearProbe, validation: LabelledFeatures) -> float:
        states.append(probe.linear.weight.detach().clone())
        return next(given)

    monkeypatch.setattr(probes, "_label_score", score)
    fit = fit_linear_probe(_labelled(0), _labelled(1), LinearRecipe(epochs=4), seed=0)
    assert (fit.choice, tuple(fit.validation.values())) == (2, (0.2, 0.9, 0.9, 0.1))
    assert torch.equal(fit.probe.linear.weight, states[1])


def test_one_full_batch_step_is_that_of_torch() -> None:
    train = _labelled(0)
    fit = fit_linear_probe(train, _labelled(1), LinearRecipe(epochs=1), seed=0)
    probe = LinearProbe(8, 3, seed=0)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-3 * 120 / 256, betas=(0.9, 0.95), weight_decay=0.0)
    features = torch.from_numpy(train.features).float()
    standard = (features - features.mean(0)) / torch.sqrt(features.var(0, unbiased=False) + 1e-6)
    loss = torch.nn.functional.cross_entropy(probe.linear(standard), torch.from_numpy(train.labels))
    loss.backward()
    optimizer.step()
    assert torch.allclose(fit.probe.linear.weight, probe.linear.weight, atol=1e-6)


def test_the_learning_rate_falls_to_a_tenth_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    fit_linear_probe(_labelled(0), _labelled(1), LinearRecipe(epochs=10, base_lr=256 / 120), seed=0)
    assert rates == pytest.approx([1] * 6 + [0.1] * 2 + [0.01] * 2)


def test_a_last_batch_of_one_sample_does_not_stop_the_training() -> None:
    options = LinearRecipe(epochs=2, batch_size=40)
    fit = fit_linear_probe(_labelled(0, 121), _labelled(1), options, seed=0)
    assert torch.isfinite(fit.probe.linear.weight).all()


def test_a_probe_without_validation_is_refused() -> None:
    with pytest.raises(InputError, match="found 120 and 0; validation chooses the epoch"):
        fit_linear_probe(_labelled(0), _labelled(1, 0), seed=0)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="epochs ≥ 1"):
        fit_linear_probe(_labelled(0), _labelled(1), LinearRecipe(epochs=0), seed=0)


def test_each_epoch_after_the_first_is_fitted_on_features_drawn_for_it() -> None:
    train, validation, asked = _labelled(0), _labelled(1), []

    def redraw(epoch: int) -> np.ndarray:
        asked.append(epoch)
        return train.features + epoch

    fit = fit_linear_probe(train, validation, LinearRecipe(epochs=4), seed=0, redraw=redraw)
    plain = fit_linear_probe(train, validation, LinearRecipe(epochs=4), seed=0)
    same = fit_linear_probe(train, validation, LinearRecipe(epochs=4), seed=0, redraw=lambda _: train.features)
    assert asked == [1, 2, 3]
    assert torch.equal(same.probe.linear.weight, plain.probe.linear.weight)
    assert fit.validation[1] == plain.validation[1]
    assert not torch.equal(fit.probe.norm.running_mean, plain.probe.norm.running_mean)
