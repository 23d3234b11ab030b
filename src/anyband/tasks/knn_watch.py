"""A kNN score while training, on the training and validation parts of a labelled set."""

from pathlib import Path

from anyband.data.labelled import LabelledImages, read_labelled, split
from anyband.errors import InputError
from anyband.models.checkpoint import Checkpoint
from anyband.sensors.assignment import AssignmentRules
from anyband.tasks.evaluate import EvaluateOptions, feature_makers, features_of
from anyband.tasks.features import SensorEncoder
from anyband.tasks.knn import KnnOptions, knn_scores
from anyband.tasks.labelled_inputs import labelled_batches, labelled_parts
from anyband.tasks.metrics import score_predictions
from anyband.tasks.readings import checkpoint_sensor
from anyband.tasks.recipe import KnnRecipe

__all__ = ["KnnWatch"]

# chosen: the shares of `anyband evaluate`, where no split is declared. Test images are never looked at.
_VAL_SHARE, _TEST_SHARE = 0.1, 0.2


class KnnWatch:
    """Scores a network on one labelled set again and again."""

    def __init__(self, knn: KnnRecipe, *, seed: int) -> None:
        """List the images and split them; no image is read yet.

        Raises:
            ManifestError: there are no labelled images at that path.
            InputError: a part has none.
        """
        images = split(read_labelled(Path(knn.labelled)), val=_VAL_SHARE, test=_TEST_SHARE, seed=seed)
        for part in ("train", "val"):
            if part not in images.splits:
                raise InputError(f"'{knn.labelled}' has no images for {part}; a kNN score needs train and val")
        self._images: LabelledImages = images
        self._knn = knn
        self._seed = seed

    def check(self, checkpoint: Checkpoint, *, rules: AssignmentRules) -> None:
        """See that a network reads the sensor of the images, before any training.

        Raises:
            CatalogueError: no such sensor, or one without statistics.
            AssignmentError: a band that the network's ranges can't express.
        """
        SensorEncoder(checkpoint, rules=rules).reading(checkpoint_sensor(checkpoint, self._knn.sensor))

    def score(self, checkpoint: Checkpoint, *, rules: AssignmentRules, device: str) -> float:
        """Let the training images vote on the validation images.

        Returns:
            Accuracy, or the micro mean average precision where images have several labels; 0 to 1.
        """
        encoder = SensorEncoder(checkpoint, rules=rules).to(device).eval()
        reading = encoder.reading(checkpoint_sensor(checkpoint, self._knn.sensor))
        options = EvaluateOptions()
        batches = labelled_batches(
            self._images, reading, img_size=encoder.config.img_size, batch_size=options.batch_size
        )
        features = features_of(batches, feature_makers(encoder, options))
        parts = labelled_parts(self._images, features["encoder"])
        neighbours = KnnOptions(k=min(KnnOptions().k, len(parts["train"])))
        votes = knn_scores(parts["train"], parts["val"], neighbours, device=device)
        return score_predictions(parts["val"].labels, votes, seed=self._seed, num_resamples=1)[0].value
