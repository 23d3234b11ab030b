"""A kNN score while training, on the training and validation parts of a labelled set."""

from pathlib import Path

import numpy as np

from anyband.data.labelled import LabelForm, read_labelled
from anyband.data.labelled_sets import Slot
from anyband.data.supervised.image_level import open_image_level
from anyband.data.supervised.records import DataSpec, SplitSpec, TaskData
from anyband.models.checkpoint import Checkpoint
from anyband.sensors.assignment import AssignmentRules
from anyband.tasks.features import SensorEncoder
from anyband.tasks.knn import KnnOptions, knn_scores
from anyband.tasks.labels import LabelledFeatures
from anyband.tasks.metrics import score_predictions
from anyband.tasks.readings import checkpoint_sensors
from anyband.tasks.recipe import KnnRecipe
from anyband.tasks.transfer.features import extract_features
from anyband.tasks.transfer.fusion import FusedEncoder
from anyband.tasks.transfer.inputs import TaskReader
from anyband.tasks.transfer.probes import check_parts
from anyband.tasks.transfer.recipe import Fusion, TransferRecipe

__all__ = ["KnnWatch"]

# chosen: the shares of `anyband evaluate`, where no split is declared. Test images are never looked at.
_SHARES = SplitSpec(val=0.1, test=0.2)


class KnnWatch:
    """Scores a network on one labelled set again and again.

    Images that are samples together are one sequence. The network is told nothing of them but their pixels, so that
    the score depends on nothing else.
    """

    def __init__(self, knn: KnnRecipe, *, seed: int) -> None:
        self._knn = knn
        self._seed = seed
        self._opened: TaskData | None = None

    def check(self, checkpoint: Checkpoint, *, rules: AssignmentRules) -> None:
        """See that the images are there and that a network reads their sensors, before any training; reads no image.

        Raises:
            ManifestError: there are no labelled images at that path, or a table of them is wrong.
            InputError: a part has none.
            CatalogueError: no such sensor, or one without statistics.
            AssignmentError: a band that the network's ranges can't express.
        """
        data, reader, _ = self._parts(checkpoint, rules)
        for sensor in dict.fromkeys(sensor for slots in data.sensors for sensor in slots):
            reader.reading(sensor)

    def score(self, checkpoint: Checkpoint, *, rules: AssignmentRules, device: str) -> float:
        """Let the training images vote on the validation images.

        Returns:
            Accuracy, or the micro mean average precision where images have several labels; 0 to 1.
        """
        data, reader, fused = self._parts(checkpoint, rules)
        samples = np.concatenate([data.part("train"), data.part("val")])
        features = extract_features({"encoder": fused.to(device)}, reader, samples, cache=None)["encoder"]
        assert data.targets is not None
        num_train = data.num_samples["train"]
        train, val = (
            LabelledFeatures(features=features[part], labels=data.targets[samples[part]], classes=data.classes)
            for part in (slice(0, num_train), slice(num_train, None))
        )
        votes = knn_scores(train, val, KnnOptions(k=min(KnnOptions().k, num_train)), device=device)
        return score_predictions(val.labels, votes, seed=self._seed, num_resamples=1)[0].value

    def _parts(self, checkpoint: Checkpoint, rules: AssignmentRules) -> tuple[TaskData, TaskReader, FusedEncoder]:
        data = self._data(checkpoint)
        encoder = SensorEncoder(checkpoint, rules=rules).eval()
        recipe = TransferRecipe(name="kNN while training", data=DataSpec(source=self._knn.labelled))
        fusion: Fusion = "single" if {len(slots) for slots in data.sensors} == {1} else "joint"
        fused = FusedEncoder(encoder, fusion=fusion, pool=self._knn.pool, seed=self._seed, metadata=False)
        return data, TaskReader(encoder, data, recipe), fused

    def _data(self, checkpoint: Checkpoint) -> TaskData:
        """List the images and split them, once."""
        if self._opened is None:
            source, known = Path(self._knn.labelled), checkpoint_sensors(checkpoint)
            several = read_labelled(source, form=LabelForm(slots=(Slot(sensor=self._knn.sensor),), sensors=known))
            spec = DataSpec(
                source=str(source),
                kind="labels" if several.multi_label else "class",
                sensors=(self._knn.sensor,),
                split=_SHARES,
                # Nothing but a look: what is in the files is not compared.
                options={"contents": "sizes"},
            )
            data = open_image_level(spec, seed=self._seed, sensors=known)
            check_parts(data, protocol="a kNN score", parts=("train", "val"))
            self._opened = data
        return self._opened
