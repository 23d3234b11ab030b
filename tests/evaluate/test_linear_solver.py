"""The linear probe by its optimum: against the one by epochs, against scikit-learn, and what it refuses."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from anyband.errors import InputError
from anyband.evaluate import probes
from anyband.evaluate.metrics import LabelledFeatures, metric_value
from anyband.evaluate.probes import fit_linear_probe, probe_scores, solve_linear_probe, solve_ridge
from anyband.evaluate.recipe import LinearRecipe

_NAMES = ("water", "forest", "field")


def _labelled(seed: int, count: int = 150, *, noise: float = 2.0, num_classes: int = 3) -> LabelledFeatures:
    """Separable classes whose features are noisy, of very different sizes."""
    draw = np.random.default_rng(seed)
    numbers = np.arange(count) % num_classes
    features = noise * draw.normal(size=(count, 12)) + 4 * np.eye(3, 12)[numbers]
    return LabelledFeatures(features=features * np.geomspace(0.01, 100, 12) + 5, labels=numbers, classes=_NAMES)


def _multi(seed: int, count: int = 150) -> LabelledFeatures:
    draw = np.random.default_rng(seed)
    labels = draw.random((count, 3)) < [0.5, 0.3, 0.1]
    features = draw.normal(size=(count, 12)) + 2 * labels @ np.eye(3, 12)
    return LabelledFeatures(features=features, labels=labels, classes=_NAMES)


def test_both_solvers_agree_within_noise_on_noisy_features() -> None:
    train, validation, test = _labelled(0, 300), _labelled(1, 150), _labelled(2, 600)
    solved = solve_linear_probe(train, validation)
    options = LinearRecipe(epochs=100, base_lr=0.01, batch_size=64)
    by_epochs = fit_linear_probe(train, validation, options, seed=0)
    exact, stepped = (
        metric_value("accuracy", test.labels, probe_scores(one.probe, test.features)) for one in (solved, by_epochs)
    )
    # Two standard errors of an accuracy of 600 samples are about 3 %.
    assert exact == pytest.approx(stepped, abs=0.03)
    assert exact > 0.7


def test_both_solvers_agree_within_noise_on_several_labels() -> None:
    train, validation, test = _multi(0, 300), _multi(1, 150), _multi(2, 600)
    solved = solve_linear_probe(train, validation)
    by_epochs = fit_linear_probe(train, validation, LinearRecipe(epochs=60, base_lr=0.05), seed=0)
    exact, stepped = (
        metric_value("map_micro", test.labels, probe_scores(one.probe, test.features)) for one in (solved, by_epochs)
    )
    assert exact == pytest.approx(stepped, abs=0.03)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_log_probabilities_are_those_of_scikit_learn(num_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_STRENGTHS", (0.1,))
    train, test = _labelled(0, num_classes=num_classes), _labelled(1, num_classes=num_classes)
    scaler = StandardScaler().fit(train.features)
    oracle = LogisticRegression(C=1 / (0.1 * len(train.labels)), tol=1e-8, max_iter=5000)
    oracle.fit(scaler.transform(train.features), train.labels)
    scores = probe_scores(solve_linear_probe(train, test).probe, test.features)
    ours = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    expected = oracle.predict_log_proba(scaler.transform(test.features))
    np.testing.assert_allclose(ours[:, :num_classes], expected, atol=5e-3)


def test_several_labels_are_solved_one_against_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_STRENGTHS", (0.1,))
    train, test = _multi(0), _multi(1)
    scaler = StandardScaler().fit(train.features)
    oracle = OneVsRestClassifier(LogisticRegression(C=1 / (0.1 * len(train.labels)), tol=1e-8, max_iter=5000))
    oracle.fit(scaler.transform(train.features), train.labels)
    scores = probe_scores(solve_linear_probe(train, test).probe, test.features)
    np.testing.assert_allclose(scores, oracle.decision_function(scaler.transform(test.features)), atol=5e-3)


def test_numbers_are_solved_by_ridge_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_STRENGTHS", (0.1,))
    (features, numbers), test = _numbers(0), _numbers(1)
    scaler = StandardScaler().fit(features)
    oracle = Ridge(alpha=0.1 * len(features)).fit(scaler.transform(features), numbers)
    predicted = probe_scores(solve_ridge((features, numbers), test).probe, test[0])[:, 0]
    np.testing.assert_allclose(predicted, oracle.predict(scaler.transform(test[0])), rtol=1e-4)


def _numbers(seed: int, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 6))
    return features, 300 + features @ np.arange(6.0) + draw.normal(size=count)


def test_the_penalty_with_the_best_validation_score_is_kept() -> None:
    solved = solve_linear_probe(_labelled(0, 60), _labelled(1, 60))
    best = max(solved.validation.values())
    assert solved.validation[solved.choice] == best
    # Of equal scores the strongest.
    assert solved.choice == max(strength for strength, score in solved.validation.items() if score == best)


def test_noise_is_penalised_and_signal_is_not() -> None:
    draw = np.random.default_rng(0)
    noise = draw.normal(size=(40, 30))
    signal = np.hstack([noise, noise @ np.ones((30, 1))])
    noisy = solve_ridge((noise, draw.normal(size=40)), (draw.normal(size=(40, 30)), draw.normal(size=40)))
    other = draw.normal(size=(40, 30))
    clear = solve_ridge((signal, signal[:, -1]), (np.hstack([other, other @ np.ones((30, 1))]), other.sum(axis=1)))
    assert noisy.choice > 1 > clear.choice
    assert clear.notes == ("validation chose the weakest penalty tried, 0.0001",)


def test_equal_arguments_give_equal_weights() -> None:
    first, second = (solve_linear_probe(_labelled(0), _labelled(1)).probe.state_dict() for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_a_class_without_training_samples_never_wins() -> None:
    train, validation = _labelled(0, num_classes=2), _labelled(1, num_classes=2)
    scores = probe_scores(solve_linear_probe(train, validation).probe, _labelled(2).features)
    assert not (scores.argmax(axis=1) == 2).any()
    assert np.isfinite(scores).all()


def test_a_label_that_no_or_every_training_sample_has_is_constant() -> None:
    labels = _multi(0).labels.copy()
    labels[:, 1], labels[:, 2] = False, True
    train = LabelledFeatures(features=_multi(0).features, labels=labels, classes=_NAMES)
    scores = probe_scores(solve_linear_probe(train, train).probe, _multi(1).features)
    assert (scores[:, 1] < scores[:, 0]).all()
    assert (scores[:, 2] > scores[:, 0]).all()


def test_a_solver_that_did_not_end_is_noted_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_MAX_ITERATIONS", 1)
    monkeypatch.setattr(probes, "_STRENGTHS", (1.0, 1e-4, 1e-9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solved = solve_linear_probe(_labelled(0), _labelled(1))
    assert any("stopped after 1 iterations before its end" in note for note in solved.notes)


def test_features_that_never_vary_change_nothing() -> None:
    train, validation = _labelled(0), _labelled(1)

    def widened(one: LabelledFeatures) -> LabelledFeatures:
        features = np.hstack([one.features, np.full((len(one.labels), 1), 3.0)])
        return LabelledFeatures(features=features, labels=one.labels, classes=one.classes)

    plain = probe_scores(solve_linear_probe(train, validation).probe, validation.features)
    scores = probe_scores(solve_linear_probe(widened(train), widened(validation)).probe, widened(validation).features)
    np.testing.assert_allclose(scores, plain, atol=5e-3)


def test_one_class_in_training_is_refused() -> None:
    one = LabelledFeatures(features=np.ones((4, 2)), labels=np.zeros(4, dtype=np.int64), classes=_NAMES)
    with pytest.raises(InputError, match="all 4 training samples are of class 'water'; a linear probe needs two"):
        solve_linear_probe(one, one)


def test_a_class_that_training_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="1 of 3 classes in the test split has no training sample: 'field'"):
        solve_linear_probe(_labelled(0, num_classes=2), _labelled(1))


def test_empty_validation_is_refused() -> None:
    nothing = LabelledFeatures(features=np.ones((0, 12)), labels=np.zeros(0, dtype=np.int64), classes=_NAMES)
    with pytest.raises(InputError, match="found 150 and 0; validation chooses the penalty"):
        solve_linear_probe(_labelled(0), nothing)


def test_one_validation_sample_is_enough() -> None:
    one = LabelledFeatures(features=_labelled(1).features[:1], labels=_labelled(1).labels[:1], classes=_NAMES)
    assert solve_linear_probe(_labelled(0), one).validation


def test_numbers_that_are_not_finite_are_refused() -> None:
    features, numbers = _numbers(0)
    numbers[3] = np.nan
    with pytest.raises(InputError, match="is not finite"):
        solve_ridge((features, numbers), _numbers(1))
