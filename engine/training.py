"""Puts a run together: data, network, losses, optimizer, and what must be saved to go on later."""

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from config.params import Params
from data.dataset import check_training_set, read_dataset, summary_table, without_bad_images
from data.kept import KeptImages, build_kept_images
from data.samples import Dataset, sorted_pids
from data.store import ImageStore, build_store
from engine.alike import check_alike
from engine.optim import build_optimizer, freeze_all_but_classifiers
from engine.outline import batches_of_all, num_processes
from engine.step import LossModule, Stepper, choose_compilation
from engine.teacher import Teacher, load_teacher
from evaluate.core.plugins import load_plugin
from losses.criterion import Criterion, build_criterion
from models.network import ReidNetwork, build_network
from models.pretrained import load_imagenet, load_snapshot
from models.sync_bn import synchronised
from utils.agreement import agreed
from utils.checkpoint import load_tensors, save_tensors
from utils.distributed import this_process
from utils.errors import DataError
from utils.precision import choose_precision
from utils.randomness import INITIAL_WEIGHTS, seed_for

logger = logging.getLogger(__name__)


@dataclass
class Training:
    """A run under way. Counters and best values change by assignment; the rest is built once."""

    params: Params
    device: torch.device
    pids: list[int]
    """Sorted pids of the training set; the position is the class index."""
    labels: torch.Tensor
    """(number of training images,) int64, on the CPU."""
    store: ImageStore
    network: ReidNetwork
    criterion: Criterion
    stepper: Stepper
    """Takes the steps; holds the optimizer."""
    kept_images: KeptImages | None
    """Decoded test images, from one evaluation to the next; None where they would not fit."""
    teacher: Teacher | None
    """Shows the network how similar classes and images are; None without distillation."""
    epoch: int = field(default=0)
    """Epochs done."""
    step: int = field(default=0)
    """Steps done."""
    best_score: float | None = field(default=None)
    """Score of model_best.pth; None while no evaluation has chosen one."""
    best_accuracy: float = field(default=0.0)
    """Highest training accuracy of an epoch."""

    def batches(self) -> list[list[int]]:
        """The coming epoch's batches of this process, as indices of training images."""
        batches = batches_of_all(self.params, self.labels.tolist(), self.epoch)
        return [batch[this_process().share(len(batch))] for batch in batches]

    def spectral_acts(self) -> bool:
        """Whether the coming epoch's batches go through the spectral transform as well."""
        model = self.params.model_params
        return (
            model.spectral_trans > 0
            and self.epoch >= model.spectral_start_epoch
            and self.best_accuracy >= model.spectral_start_accuracy
        )

    def state(self) -> dict[str, Any]:
        """Everything that decides how the run goes on. What is drawn follows from the seed and the step."""
        return {
            "belongs_to": self._belonging(),
            "network": self.network.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best_score": self.best_score,
            "best_accuracy": self.best_accuracy,
        }

    def save(self, path: Path) -> None:
        """Write the state, for `restore`; the first process does."""
        if this_process().is_main:
            save_tensors(path, self.state())

    def restore(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            DataError: the file is missing or damaged, or the data set or kind of device is another one now.
        """
        with agreed():
            self._restore(path)

    def _restore(self, path: Path) -> None:
        state = load_tensors(path)
        if not isinstance(state, dict) or state.keys() != self.state().keys():
            raise DataError(f"{path}: not the state of a training; the run cannot go on from it")
        for what, now in self._belonging().items():
            if state["belongs_to"].get(what) != now:
                before = _brief(state["belongs_to"].get(what))
                raise DataError(
                    f"{path}: {what}: the run began with {before}, now it is {_brief(now)}; it goes on only as it began"
                )
        self.network.load_state_dict(state["network"])
        self.criterion.load_state_dict(state["criterion"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best_score, self.best_accuracy = state["best_score"], state["best_accuracy"]

    def _belonging(self) -> dict[str, Any]:
        """What must not have changed when a run goes on: other data or another device would give another run."""
        labels = hashlib.sha256(self.labels.cpu().numpy().tobytes()).hexdigest()
        return {
            "kind of device": self.device.type,
            "number of processes": this_process().world_size,
            "precision": self.stepper.precision.name,
            "training images": len(self.labels),
            "identities": self.pids,
            "order of identities": labels,
            "teacher": None if self.teacher is None else self.teacher.digest,
        }


def read_training_data(params: Params) -> Dataset:
    """The data set, summarised and checked, before anything else is built on it; the same in all processes."""
    dist = this_process()
    dataset = Dataset([], [], [], [])
    # One process of a machine first: what it makes, such as synthetic pedestrians, the others find.
    for turn in (dist.local_rank == 0, dist.local_rank != 0):
        with agreed():
            if turn:
                dataset = read_dataset(params)
    check_alike(params, dataset)
    dataset = without_bad_images(dataset, params)
    logger.info("data set %s\n%s", params.batches_dir, summary_table(dataset))
    with agreed():
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
    with agreed():
        precision, compilation = choose_precision(params.precision, device), choose_compilation(params.compile, device)
        teacher = load_teacher(params, pids, device)
        torch.manual_seed(seed_for(INITIAL_WEIGHTS, params.seed))
        network = build_network(params.model_params, len(pids)) if resume else start_network(params, len(pids))
    if params.fine_tune:
        freeze_all_but_classifiers(network)
    network = network.to(device)
    # Channels last is the layout in which convolutions are fastest, on the CPU as on a GPU.
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if params.sync_bn:
        synchronised(network, device)  # changed in place
    criterion = build_criterion(
        params,
        random_drop_branches=params.model_params.random_drop_branches,
        update_max_loss_branch=params.model_params.update_max_loss_branch,
        embedding_dim=network.embedding_dim,
        teacher_dim=0 if teacher is None else teacher.embedding_dim,
        seed=params.seed,
    ).to(device)
    optimizer = build_optimizer(params, network, criterion)
    module = LossModule(network, criterion, precision)
    return Training(
        params=params,
        device=device,
        pids=pids,
        labels=torch.tensor([label_of[sample.pid] for sample in dataset.train]),
        store=build_store([sample.path for sample in dataset.train], *params.resize_to, params.data_cache, device),
        network=network,
        criterion=criterion,
        stepper=Stepper(module, optimizer, precision, compilation),
        kept_images=build_kept_images(params.data_cache),
        teacher=teacher,
    )


def start_network(params: Params, num_classes: int) -> ReidNetwork:
    """The network with the weights training starts from."""
    network = build_network(params.model_params, num_classes)
    if params.imagenet_pretrain:
        load_imagenet(network.backbone, params.model_params.model)
    if params.pretrain_snapshot:
        load_snapshot(network, Path(params.pretrain_snapshot).expanduser())
    return network


def _brief(value: object) -> str:
    """A value as a message shows it."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
