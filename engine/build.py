"""Builds a trainer from params: data, network, losses, optimizer."""

import logging
from collections.abc import Callable, Sequence

import torch

from config.params import Params
from data.cache import DecodedImageCache, build_image_cache, build_store
from data.dataset import check_training_set, check_unlabelled_set, log_summary, read_dataset, without_bad_images
from data.samples import SOURCE_STRIDE, Dataset, Sample, sorted_camids, sorted_pids, source_of
from engine.batches import ExtraImages, TrainBatches, num_processes
from engine.consistency import check_ranks_agree, run_fingerprint
from engine.optim import build_optimizer, freeze_all_but_classifiers
from engine.run import Run, RunFolder, TrainingPlan
from engine.schedules import Schedule, build_schedule
from engine.step import Stepper
from engine.summary import describe_training, plan_training
from engine.teacher import Teacher, load_teacher
from engine.trainer import ReidTrainer
from evaluate.core.plugins import check_test_data
from losses.batch_metrics import ClassSources
from losses.criterion import Criterion, build_criterion
from losses.generated import GeneratedWeights
from losses.loss import Loss
from models.network import ReidNetwork, build_network
from models.pretrained import load_snapshot
from models.sync_bn import synchronise_batch_norm
from utils.distributed import fail_together, this_process
from utils.errors import ParamsError
from utils.files import expand_user
from utils.memory import explain_oom
from utils.precision import choose_compilation, choose_precision
from utils.randomness import INITIAL_WEIGHTS, seed_for

logger = logging.getLogger(__name__)

MakeTrainer = Callable[[Sequence[Sample], Run, TrainBatches, Stepper, Schedule, DecodedImageCache | None], ReidTrainer]
"""Training images and the arguments of `ReidTrainer` -> it, or a subclass."""
BuildExtraImages = Callable[[Params, Sequence[Sample], torch.device, bool], ExtraImages | None]
"""Params, training images, device, whether a run is resumed -> the extra images of a run; None: it has none."""


def build_trainer(
    params: Params,
    folder: RunFolder,
    device: torch.device,
    resume: bool = False,
    build_extra_images: BuildExtraImages = lambda *_: None,
    make_trainer: MakeTrainer = lambda _, *parts: ReidTrainer(*parts),
) -> ReidTrainer:
    """The trainer of a run. Initial weights and all later draws follow from `params.seed`.

    A run to `resume` gets its weights from its saved state, so the files it started from are not read again.
    """
    dataset = read_training_data(params)
    plan = plan_training(params, dataset.train, device)
    schedule = build_schedule(params, plan.steps_per_epoch, plan.num_epochs * plan.steps_per_epoch)
    pids, camids = classes_of(params, dataset.train), sorted_camids(dataset.train)
    logger.info("%s", describe_training(params, plan, schedule, len(pids), camids))
    with explain_oom(f"putting the network on {device}", "take a smaller model, or free memory of the device"):
        parts = _build(params, folder, device, dataset, plan, schedule, resume, build_extra_images)
        return make_trainer(dataset.train, *parts)


def _build(
    params: Params,
    folder: RunFolder,
    device: torch.device,
    dataset: Dataset,
    plan: TrainingPlan,
    schedule: Schedule,
    resume: bool,
    build_extra_images: BuildExtraImages,
) -> tuple[Run, TrainBatches, Stepper, Schedule, DecodedImageCache | None]:
    pids = classes_of(params, dataset.train)
    label_of = {pid: label for label, pid in enumerate(pids)}
    labels = [label_of.get(sample.pid, 0) for sample in dataset.train]
    with fail_together():
        precision = choose_precision(params.precision, device)
        compilation = choose_compilation(params.compile, device, plan.num_epochs * plan.steps_per_epoch)
        teacher = load_teacher(params, pids, device)
        extra_images = build_extra_images(params, dataset.train, device, resume)
        torch.manual_seed(seed_for(INITIAL_WEIGHTS, params.seed))
        network = start_network(params, len(pids), sorted_camids(dataset.train), resume)
    if compilation.reason:
        logger.info("network and losses are not compiled: %s", compilation.reason)
    network = prepare_network(network, params, device)
    criterion = build_losses(params, network, teacher, len(dataset.train), pids).to(device)
    optimizer = build_optimizer(params, network, criterion)
    paths = [sample.path for sample in dataset.train]
    store = build_store(paths, params.train_resize, params.data_cache, device)
    camids = None
    asks = network.camids, params.model_params.mixstyle_across_cameras, params.batch_sampling_params.balance
    if any(asks) or "cameras" in criterion.needs or (teacher is not None and teacher.uses_cameras):
        camids = torch.tensor([sample.camid for sample in dataset.train])
    others = {
        "kind of device": device.type,
        "precision": precision.name,
        "steps of the learning-rate schedule": schedule.total_steps,
        "teacher": None if teacher is None else teacher.digest,
        "extra-image source": None if extra_images is None else extra_images.digest,
    }
    return (
        Run(params, folder, device, plan, run_fingerprint(params, dataset, others)),
        TrainBatches(
            params, paths, torch.tensor(labels), pids, store, precision, device, teacher, extra_images, camids
        ),
        Stepper(network, criterion, optimizer, precision, compilation.mode, params.clip_grad_norm, params.ema_decay),
        schedule,
        build_image_cache(params.data_cache),
    )


def classes_of(params: Params, train: Sequence[Sample]) -> list[int]:
    """The pids of the classifier's classes in order; none in a training without labels."""
    return [] if params.is_unsupervised else sorted_pids(train)


def build_losses(
    params: Params, network: ReidNetwork, teacher: Teacher | None, num_images: int, pids: Sequence[int] = ()
) -> Criterion:
    """The losses of a training of this network on so many images; the pids of the classes tell data sets apart."""
    names = [params.data_names[path] for path in params.sources]
    sources = ClassSources(names, [source_of(pid) for pid in pids]) if len(names) > 1 and pids else None
    generated = GeneratedWeights(params.num_generated / params.batch_images, params.gan_params.lambda_consistency)
    return build_criterion(
        params,
        params.model_params,
        sizes=network.sizes,
        teacher_dim=0 if teacher is None else teacher.embedding_dim,
        generated=generated if params.num_generated else None,
        clusters=build_cluster_loss(params, network, num_images),
        sources=sources,
        seed=params.seed,
    )


def build_cluster_loss(params: Params, network: ReidNetwork, num_images: int) -> Loss | None:
    """The loss of a training without labels on so many images; None: there is none."""
    section = params.clustering_params
    if not params.is_unsupervised or not section.weight:
        return None
    # Only who trains without labels imports them.
    from losses.camera_proxies import CameraProxies
    from losses.cluster_nce import ClusterNCE

    kind, capacity = ClusterNCE, num_images // section.min_samples
    if section.proxies == "camera":
        # Each image may be the only one of its camera in its cluster.
        kind, capacity = CameraProxies, num_images
    return kind(
        section.weight,
        section.temperature,
        section.momentum,
        section.memory_update,
        capacity,
        network.embedding_dim,
        params.batch_sampling_params.K,
        params.model_params.retrieval_of,
    )


def read_training_data(params: Params) -> Dataset:
    """The data set, summarised and checked before anything else is built; the same in all processes."""
    dist = this_process()
    dataset = Dataset([], [], [], [])
    # One process of a machine first: the others find what it makes, such as synthetic pedestrians.
    for turn in (dist.local_rank == 0, dist.local_rank != 0):
        with fail_together():
            if turn:
                dataset = read_dataset(params)
    check_ranks_agree(params, dataset)
    dataset = without_bad_images(dataset, params)
    log_summary(dataset, params)
    with fail_together():
        if params.is_unsupervised:
            smallest = params.clustering_params.min_samples
            check_unlabelled_set(dataset.train, params, smallest, num_processes(params))
        else:
            check_training_set(dataset.train, params, num_processes(params))
        check_cameras(dataset.train, params)
        check_test_data(dataset, params)
    return dataset


def check_cameras(train: Sequence[Sample], params: Params) -> None:
    """Check that what tells cameras apart has some to tell apart, in every data set.

    Raises:
        ParamsError: all images are of one camera, or those of one of several data sets are of unknown cameras.
    """
    if params.model_params.camera_embedding:
        text, off = "model_params.camera_embedding: tells", "0"
    elif params.model_params.mixstyle_across_cameras:
        text, off = "model_params.mixstyle_across_cameras: tells", "false"
    elif params.clustering_params.proxies == "camera":
        text, off = 'clustering_params.proxies: "camera" tells', '"cluster"'
    elif params.clustering_params.camera_normalisation:
        text, off = "clustering_params.camera_normalisation: tells", "false"
    elif params.batch_sampling_params.balance == "camera":
        text, off = 'batch_sampling_params.balance: "camera" tells', "null"
    else:
        return
    text += " cameras apart, but the training images of batches_dir"
    camids = sorted_camids(train)
    if len(camids) < 2:
        raise ParamsError(f"{text} {params.data_name} are all of one camera, or of unknown ones; set it to {off}")
    known = {source_of(camid) for camid in camids if camid % SOURCE_STRIDE}
    unknown = [path for number, path in enumerate(params.sources) if number not in known]
    if unknown and len(params.sources) > 1:
        raise ParamsError(f"{text} {', '.join(unknown)} are of unknown cameras; leave them out, or set it to {off}")


def start_network(params: Params, num_classes: int, camids: Sequence[int], resume: bool = False) -> ReidNetwork:
    """The network with the weights that training starts from; random ones for a run to resume.

    Args:
        params: of the run.
        num_classes: N.
        camids: cameras of the training set.
        resume: whether the weights are those of a saved state.
    """
    network = build_network(params.model_params, num_classes, (params.img_h, params.img_w), camids)
    if params.imagenet_pretrain and not resume:
        network.backbone.load_imagenet()
    if params.pretrain_snapshot and not resume:
        load_snapshot(network, expand_user(params.pretrain_snapshot))
    return network


def prepare_network(network: ReidNetwork, params: Params, device: torch.device) -> ReidNetwork:
    """A network to be trained, on its device."""
    if params.fine_tune:
        freeze_all_but_classifiers(network)
    network = network.to(device)
    # Channels last is the layout in which convolutions are fastest, on the CPU as on a GPU.
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if params.sync_bn:
        synchronise_batch_norm(network)
    return network
