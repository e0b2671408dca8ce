"""The training of a re-ID network without labels: before each epoch, clusters of its embeddings become the labels."""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from data.cache import DecodedImageCache
from data.samples import Sample
from engine.batches import TrainBatch, TrainBatches, batches_of_epoch
from engine.meter import Means
from engine.recorder import Recorder
from engine.run import Run
from engine.schedules import Schedule
from engine.step import Stepper
from engine.trainer import ReidTrainer
from evaluate.core.context import EvalContext
from evaluate.core.extract import extract
from evaluate.core.retrieval.approximate import find_neighbours
from evaluate.core.retrieval.post_processing import standardised_by_camera
from losses.camera_proxies import CameraProxies
from losses.cluster_nce import ClusterNCE
from unsupervised.clustering import OUTLIER, centroids_of, cluster, rand_index, split_by_camera
from utils.distributed import broadcast_from_rank0, fail_together, this_process
from utils.errors import DataError, ParamsError

logger = logging.getLogger(__name__)


class PseudoLabels:
    """The clusters of an epoch, a part of the state that a run is resumed from."""

    def __init__(self) -> None:
        self.epoch = -1
        """For which they were formed, counted from 0."""
        self.labels = torch.empty(0, dtype=torch.int64)
        """(N,), the cluster of each training image or `OUTLIER`."""
        self.metrics: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """The clusters, as plain values and a tensor."""
        return {"epoch": self.epoch, "labels": self.labels, "metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the clusters that `state_dict` returned."""
        self.epoch, self.labels, self.metrics = (state_dict[name] for name in ("epoch", "labels", "metrics"))


class ClusterTrainer(ReidTrainer):
    """Trains with the loop and the steps of `ReidTrainer`, on clusters instead of identities.

    Identities, where the data set has them, are compared with the clusters, and decide nothing.

    Args:
        samples: the training images.
        run, batches, stepper, schedule, cache: as of `ReidTrainer`.

    Source: Dai et al. 2021, arXiv 2103.11568, algorithm 1.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        run: Run,
        batches: TrainBatches,
        stepper: Stepper,
        schedule: Schedule,
        cache: DecodedImageCache | None,
    ) -> None:
        super().__init__(run, batches, stepper, schedule, cache)
        self.samples = samples
        self.clusters = PseudoLabels()
        self.stateful["clusters"] = self.clusters

    def before_training(self, recorder: Recorder) -> None:
        super().before_training(recorder)
        # Before the first state is saved: a start whose images form no clusters leaves no run behind.
        self.form_clusters()

    def begin_epoch(self) -> None:
        if self.clusters.epoch != self.epoch:
            start = time.monotonic()
            self.form_clusters()
            self.clock.seconds += time.monotonic() - start
        self.batches.labels = self.clusters.labels
        super().begin_epoch()

    def end_epoch(self, means: Means) -> None:
        super().end_epoch(means)
        means.metrics.update(self.clusters.metrics)

    def load_steps(self) -> Iterator[list[TrainBatch]]:
        return self.batches.steps(self.epoch, self.step, self.batches_of_clusters())

    def form_clusters(self) -> None:
        """Embed and cluster the training images for this epoch, and begin the memory; every process must call this.

        Raises:
            DataError: an image cannot be read any more, or its embedding is 0.
            ParamsError: there are too few clusters for a batch.
        """
        start = time.monotonic()
        features = self._embed()
        labels, order, section = None, None, self.params.clustering_params
        camids = torch.tensor([sample.camid for sample in self.samples])
        compared = standardised_by_camera(features, camids) if section.camera_normalisation else features
        if section.distance == "jaccard":
            # All comparisons of two images, which the processes share; the rest is sparse.
            order = find_neighbours(compared.to(self.device), section.k1, section.probes, is_shared=True)
        with fail_together():
            if this_process().is_rank_zero:
                labels = cluster(compared, section, order)
        labels = broadcast_from_rank0(labels)
        assert labels is not None
        self._check(labels)
        for loss in self.criterion.values():
            if isinstance(loss, ClusterNCE):
                loss.begin_epoch(centroids_of(features, labels))
            elif isinstance(loss, CameraProxies):
                proxies, clusters, cameras = split_by_camera(labels, camids)
                loss.begin_epoch(centroids_of(features, proxies), clusters, cameras)
        self._record(labels, time.monotonic() - start)

    def batches_of_clusters(self) -> list[list[int]]:
        """The batches of this epoch over all processes, as indices of training images; outliers are in none."""
        params, labels = self.params, self.clusters.labels
        kept = (labels != OUTLIER).nonzero().flatten().tolist()
        number = self.plan.steps_per_epoch * params.accumulate_steps
        camids = [self.samples[index].camid for index in kept]
        batches: list[list[int]] = []
        while len(batches) < number:
            # Each time all clusters are dealt, by a number that no other time has.
            turn = self.epoch * number + len(batches)
            batches += batches_of_epoch(params, labels[kept].tolist(), turn, camids)
        return [[kept[place] for place in batch] for batch in batches[:number]]

    def _embed(self) -> Tensor:
        """The embeddings of all training images (N, D), of unit length, as retrieval compares them."""
        context = EvalContext(self.params, self.embedder.eval(), self.cache)
        found = extract(context, self.samples, "training images")
        where = self.params.batches_dir
        if len(found.samples) < len(self.samples):
            number = len(self.samples) - len(found.samples)
            raise DataError(f"{where}: {number} training images cannot be read any more")
        if number := int((~found.features.any(1)).sum()):
            raise DataError(f"{where}: the embeddings of {number} training images are 0, which have no neighbours")
        return F.normalize(found.features, dim=1)

    def _check(self, labels: Tensor) -> None:
        section, sampling = self.params.clustering_params, self.params.batch_sampling_params
        # Of a single cluster there is nothing to tell apart: the loss is 0.
        needed, number = max(2, sampling.P * this_process().world_size), int(labels.max()) + 1
        if number >= needed:
            return
        outliers = int((labels == OUTLIER).sum())
        uses_k1 = section.distance == "jaccard"
        if outliers > len(labels) / 2:
            # min_samples decides how large the memory is, so a run keeps it.
            advice = "raise clustering_params.eps"
            advice += "" if self.epoch else " or lower clustering_params.min_samples"
        else:
            advice = "lower clustering_params.eps, which joins what should be apart"
            advice += ", or clustering_params.k1" if uses_k1 else ""
        fewer = ", or start again with a lower P" if number > 1 else ""
        resume = " in the run's params.json, then continue with resume_train" if self.epoch else ""
        used = f"eps {section.eps:g}, min_samples {section.min_samples}" + (f", k1 {section.k1}" if uses_k1 else "")
        raise ParamsError(
            f"clustering_params: clusters of the {len(labels)} training images in epoch {self.epoch + 1}: {number}, "
            f"outliers: {outliers}; at least {needed} clusters are needed (batch_sampling_params.P {sampling.P} on "
            f"each device, and never less than 2); {advice}{resume}{fewer} ({used})"
        )

    def _record(self, labels: Tensor, seconds: float) -> None:
        number, outliers = int(labels.max()) + 1, int((labels == OUTLIER).sum())
        index = rand_index(labels, [sample.pid for sample in self.samples])
        self.clusters.epoch, self.clusters.labels = self.epoch, labels
        self.clusters.metrics = {"clusters": number, "outliers": outliers}
        if index is not None:
            self.clusters.metrics["adjusted_rand_index"] = index
        agreement = "" if index is None else f", adjusted Rand index {index:.3f}"
        text = "epoch %d: %d clusters, %d outliers of %d images%s, in %.1f s"
        logger.info(text, self.epoch + 1, number, outliers, len(labels), agreement, seconds)
