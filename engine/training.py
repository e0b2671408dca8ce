"""Puts a run together: data, network, losses, optimizer, and what must be saved to go on later."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from config.params import Params
from data.cache import DecodedImageCache, ImageStore, build_image_cache, build_store
from data.dataset import check_training_set, read_dataset, summary_table, without_bad_images
from data.samples import Dataset, sorted_pids
from engine.alike import check_alike
from engine.belonging import belonging_of
from engine.buffers import named_buffers
from engine.gan.mixing import Mixing, build_mixing, num_generated
from engine.health import Health
from engine.optim import build_optimizer, freeze_all_but_classifiers
from engine.outline import batches_of_all, num_processes
from engine.resumable import Resumable
from engine.step import LossModule, Stepper, choose_compilation
from engine.teacher import Teacher, load_teacher
from evaluate.core.plugins import load_plugin
from losses.criterion import Criterion, build_criterion
from losses.generated import GeneratedWeights
from models.network import ReidNetwork, build_network
from models.pretrained import load_imagenet, load_snapshot
from models.sync_bn import synchronised
from utils.distributed import fail_together, gather_objects, this_process
from utils.files import expand_user
from utils.precision import choose_precision
from utils.randomness import INITIAL_WEIGHTS, seed_for

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Training(Resumable):
    """The training of a re-ID network."""

    pids: list[int]
    """Sorted pids of the training set; the position is the class index."""
    labels: torch.Tensor
    """(number of training images,) int64, on the CPU."""
    images: list[Path]
    """The training images' files."""
    store: ImageStore
    network: ReidNetwork
    criterion: Criterion
    stepper: Stepper
    """Takes the steps; holds the optimizer."""
    kept_images: DecodedImageCache | None
    """Decoded test images, from one evaluation to the next; None where they would not fit."""
    teacher: Teacher | None
    """Shows the network how similar classes and images are; None without distillation."""
    health: Health
    """Looks after the numbers."""
    mixing: Mixing | None
    """Makes generated images for the batches; None: there are real ones only."""
    best_accuracy: float = field(default=0.0)
    """Highest training accuracy of an epoch."""

    def batches(self, epoch: int) -> list[list[int]]:
        """An epoch's batches over all processes, as indices of training images."""
        return batches_of_all(self.params, self.labels.tolist(), epoch)

    def spectral_acts(self) -> bool:
        """Whether the epoch under way sends its batches through the spectral transform as well."""
        model = self.params.model_params
        return (
            model.spectral_trans > 0
            and self.epoch >= model.spectral_start_epoch
            and self.best_accuracy >= model.spectral_start_accuracy
        )

    def parts(self) -> dict[str, Any]:
        """Network, losses and optimizer; every process must call this."""
        return {
            "model": self.network.state_dict(),
            "criterion": self.criterion.state_dict(),
            "buffers": self._buffers_of_all(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "health": self.health.state(),
            "mixing": {} if self.mixing is None else self.mixing.state(),
            "best_accuracy": self.best_accuracy,
        }

    def updated_tensors(self) -> list[torch.Tensor]:
        """The tensors of the state that only the optimizer's steps change."""
        optimizer = self.stepper.optimizer.state.values()
        kept = [value for entry in optimizer for value in entry.values() if isinstance(value, torch.Tensor)]
        return [*self.network.parameters(), *self.criterion.parameters(), *kept]

    def restore_parts(self, state: dict[str, Any]) -> None:
        """Take over what `parts` gave."""
        self.network.load_state_dict(state["model"])
        self.criterion.load_state_dict(state["criterion"])
        if state["buffers"]:
            own = state["buffers"][this_process().rank]
            for name, buffer in named_buffers(self.network, self.criterion).items():
                buffer.copy_(own[name])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.health.restore(state["health"])
        if self.mixing is not None:
            self.mixing.restore(state["mixing"])
        self.best_accuracy = state["best_accuracy"]

    def _buffers_of_all(self) -> list[dict[str, torch.Tensor]]:
        """What is not the same in all processes: each normalises by its own part of a batch, and averages that."""
        if this_process().world_size == 1:
            return []
        return gather_objects(
            {name: buffer.cpu() for name, buffer in named_buffers(self.network, self.criterion).items()}
        )


def read_training_data(params: Params) -> Dataset:
    """The data set, summarised and checked, before anything else is built on it; the same in all processes."""
    dist = this_process()
    dataset = Dataset([], [], [], [])
    # One process of a machine first: what it makes, such as synthetic pedestrians, the others find.
    for turn in (dist.local_rank == 0, dist.local_rank != 0):
        with fail_together():
            if turn:
                dataset = read_dataset(params)
    check_alike(params, dataset)
    dataset = without_bad_images(dataset, params)
    logger.info("data set %s\n%s", params.batches_dir, summary_table(dataset))
    with fail_together():
        check_training_set(dataset.train, params, num_processes(params))
        if params.evaluation_params.type is not None:
            load_plugin(params.evaluation_params.type).check_data(dataset, params)
    return dataset


def build_training(params: Params, dataset: Dataset, device: torch.device, *, resume: bool = False) -> Training:
    """Build everything a run needs. Initial weights and all later draws follow from `params.seed`.

    A run to `resume` gets its weights from its saved state, so the files it started from are not read again.
    """
    pids = sorted_pids(dataset.train)
    label_of = {pid: label for label, pid in enumerate(pids)}
    labels = [label_of[sample.pid] for sample in dataset.train]
    with fail_together():
        precision, compilation = choose_precision(params.precision, device), choose_compilation(params.compile, device)
        teacher = load_teacher(params, pids, device)
        mixing = build_mixing(params, dataset.train, device, resume=resume)
        torch.manual_seed(seed_for(INITIAL_WEIGHTS, params.seed))
        network = build_network(params.model_params, len(pids)) if resume else start_network(params, len(pids))
    network = _made_ready(network, params, device)
    criterion = build_criterion(
        params,
        params.model_params,
        sizes=network.sizes,
        teacher_dim=0 if teacher is None else teacher.embedding_dim,
        generated=_weights_of_generated(params),
        seed=params.seed,
    ).to(device)
    optimizer = build_optimizer(params, network, criterion)
    module = LossModule(network, criterion, precision)
    means = {
        "kind of device": device.type,
        "precision": precision.name,
        "teacher": None if teacher is None else teacher.digest,
        "generator": None if mixing is None else mixing.digest,
    }
    return Training(
        params=params,
        device=device,
        num_epochs=params.epoch,
        pids=pids,
        labels=torch.tensor(labels),
        images=[sample.path for sample in dataset.train],
        store=build_store([sample.path for sample in dataset.train], *params.resize_to, params.data_cache, device),
        network=network,
        criterion=criterion,
        stepper=Stepper(module, optimizer, precision, compilation),
        kept_images=build_image_cache(params.data_cache),
        teacher=teacher,
        steps_per_epoch=len(batches_of_all(params, labels, 0)) // params.accumulate_steps,
        belongs_to=belonging_of(params, dataset, means),
        health=Health(params.max_bad_steps),
        mixing=mixing,
    )


def _weights_of_generated(params: Params) -> GeneratedWeights | None:
    """The weights of generated images; None: there are none."""
    number = num_generated(params)
    return GeneratedWeights(number / params.batch_images, params.gan_params.lambda_consistency) if number else None


def _made_ready(network: ReidNetwork, params: Params, device: torch.device) -> ReidNetwork:
    """A network to be trained, on its device."""
    if params.fine_tune:
        freeze_all_but_classifiers(network)
    network = network.to(device)
    # Channels last is the layout in which convolutions are fastest, on the CPU as on a GPU.
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if params.sync_bn:
        synchronised(network, device)  # changed in place
    return network


def start_network(params: Params, num_classes: int) -> ReidNetwork:
    """The network with the weights training starts from."""
    network = build_network(params.model_params, num_classes)
    if params.imagenet_pretrain:
        load_imagenet(network.backbone, params.model_params.model)
    if params.pretrain_snapshot:
        load_snapshot(network, expand_user(params.pretrain_snapshot))
    return network
