"""The kind of run that trains a re-ID network."""

import logging

import torch

from config.params import Params
from engine.fit import evaluate_network, fit
from engine.outline import describe_training
from engine.recorder import Recorder
from engine.run import Kind
from engine.training import Training, build_training, read_training_data
from evaluate.core.table import metrics_table
from utils.memory import explain_oom

logger = logging.getLogger(__name__)


def _build(params: Params, device: torch.device, resume: bool) -> Training:
    dataset = read_training_data(params)
    logger.info("%s", describe_training(params, dataset.train))
    advice = 'set data_cache to "ram" if it is "device", or take a smaller model'
    with explain_oom(f"putting the network and the images on {device}", advice):
        return build_training(params, dataset, device, resume=resume)


def _measure_untrained(training: Training, recorder: Recorder) -> None:
    """A mistake in the test set is found before the first epoch."""
    options = training.params.evaluation_params
    if options.type is not None and options.at_start:
        untrained = evaluate_network(training)
        logger.info("before training\n%s", metrics_table(untrained.metrics))
        recorder.evaluation(untrained, 0)


REID = Kind("start_train", _build, _measure_untrained, fit, lambda folder: folder.best, "epoch")
