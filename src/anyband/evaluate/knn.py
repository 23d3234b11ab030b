"""Nearest neighbours by cosine similarity: how good features are without any training."""

import numpy as np
import torch
from torch.nn.functional import normalize

from anyband.arrays import Array, Float
from anyband.errors import InputError
from anyband.evaluate.features import Context, Features, Result, check_splits, labelled_features, probe_encoders
from anyband.evaluate.metrics import LabelledFeatures, check_same_classes, label_matrix
from anyband.evaluate.predictions import predictions_of
from anyband.progress import progress

__all__ = ["NUM_NEIGHBOURS", "knn", "knn_scores"]

NUM_NEIGHBOURS = 20
"""That vote, as published: SMARTIES, section 4.1."""

# chosen: similarities held at once, about 64 MB as float32.
_CHUNK_NUMBERS = 16_000_000


def knn(context: Context) -> list[Result]:
    """Score each encoder by the votes of the nearest training samples; see `probe_encoders`.
    An empty split, a k over the number of training samples, or a test class without any is an `InputError`.
    """
    check_splits(context.data, protocol="kNN", splits=("train", "test"))
    # Before the images are read, which may take hours.
    _check_neighbours(context.recipe.knn.k, context.data.num_samples["train"])
    return probe_encoders(context, lambda features: _vote(context, features), title="nearest neighbours")


def _vote(context: Context, features: Features) -> Result:
    """Score the features of all samples of the data; the result has no name yet."""
    data, k, temperature = context.data, context.recipe.knn.k, context.recipe.knn.temperature
    train, test = (labelled_features(data, features, split) for split in ("train", "test"))
    scores = knn_scores(train, test, k=k, temperature=temperature, device=context.device, shown=context.shown)
    return Result(
        features="",
        width=features.shape[1],
        predictions=predictions_of(data, data.split("test"), scores),
        chosen={"k": k, "temperature": temperature},
    )


def knn_scores(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    k: int = NUM_NEIGHBOURS,
    temperature: float = 0.07,
    device: str = "cpu",
    shown: bool = False,
) -> Float[Array, "sample class"]:
    """Score the classes of test samples by the weighted votes of their nearest training samples.
    A neighbour of similarity s votes with weight exp(s / temperature). The scores of a sample with one class sum to 1.
    Of training samples at equal similarity the first count, so the result does not depend on the order of a sort. A k
    over the number of training samples, or a test class without any, is an `InputError`.
    Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018.
    """
    _check_neighbours(k, len(train))
    check_same_classes(train, test)
    keys = normalize(torch.from_numpy(train.features).float().to(device), dim=1)
    queries = normalize(torch.from_numpy(test.features).float().to(device), dim=1)
    classes = torch.from_numpy(label_matrix(train)).double().to(device)
    chunk = max(1, _CHUNK_NUMBERS // len(train))
    votes = []
    with progress("nearest neighbours", len(queries), shown=shown) as advance:
        for start in range(0, len(queries), chunk):
            some = queries[start : start + chunk]
            votes.append(_votes(some @ keys.T, classes, k, temperature))
            advance(len(some))
    return torch.cat(votes).cpu().numpy() if votes else np.empty((0, len(train.classes)))


def _check_neighbours(k: int, num_train: int) -> None:
    if k > num_train:
        raise InputError(f"k is {k} but there are {num_train} training samples; ask for a smaller k")


def _votes(similarity: torch.Tensor, classes: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
    kth = similarity.topk(k, dim=1).values[:, -1:]
    above, level = similarity > kth, similarity == kth
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (level & (level.cumsum(dim=1) <= room))
    weights = torch.where(chosen, torch.exp(similarity.double() / temperature), 0.0)
    return weights @ classes / weights.sum(dim=1, keepdim=True)
