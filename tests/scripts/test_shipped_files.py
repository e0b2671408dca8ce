"""Every JSON file we ship is valid."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from config.load import load_eval_params, load_params
from config.params import Params
from data.options import BatchSampling
from engine.build import build_cluster_loss
from evaluate.core.plugins import plugin_options
from losses.camera_proxies import CameraProxies
from losses.cluster_nce import ClusterNCE
from losses.criterion import build_criterion
from losses.loss import TeacherOutput
from models.network import build_network
from tests.conftest import ROOT

# The rows of the seed's tables have a test of their own, at a small size.
RECIPES = {*ROOT.glob("recipes/**/*.json")} - {*ROOT.glob("recipes/seed/*.json")}
TWO = BatchSampling(class_balanced=True, P=2, K=2)
PARAMS_FILES = sorted([ROOT / "params.json", *RECIPES])
LARGE = ("transreid", "mgn", "sbs")


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow][: path.stem in LARGE]) for path in PARAMS_FILES],
)
def test_shipped_params_load_and_their_network_takes_a_step(path: Path) -> None:
    params, notes = load_params(path, plugin_options=plugin_options)
    assert notes == ()
    num_classes = 0 if params.is_unsupervised else 4
    network = build_network(params.model_params, num_classes, (params.img_h, params.img_w), camids=(1, 2))
    labels, camids = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 1, 2])
    clusters = build_cluster_loss(params.model_copy(update={"batch_sampling_params": TWO}), network, 16)
    if isinstance(clusters, ClusterNCE):
        clusters.begin_epoch(F.normalize(torch.randn(2, network.embedding_dim), dim=1))
    elif isinstance(clusters, CameraProxies):
        of_proxies = torch.tensor([0, 0, 1, 1]), camids
        clusters.begin_epoch(F.normalize(torch.randn(4, network.embedding_dim), dim=1), *of_proxies)
    criterion = build_criterion(params, sizes=network.sizes, teacher_dim=network.embedding_dim, clusters=clusters)
    output = network(torch.randn(4, 3, params.img_h, params.img_w), spectral=True)
    teacher = TeacherOutput(torch.randn(4, network.embedding_dim), torch.randn(4, 4))
    losses = criterion(output, labels, teacher=teacher, camids=camids).losses
    torch.stack(list(losses.values())).sum().backward()
    # A classifier of no classes is never trained.
    trained = [p for p in network.parameters() if p.requires_grad and p.numel()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_the_shipped_params_run_on_any_machine() -> None:
    params, _ = load_params(ROOT / "params.json", plugin_options=plugin_options)
    assert params.batches_dir == "synthetic"
    assert params.working_dir == "runs"
    assert params.parallels == ()
    assert not params.imagenet_pretrain
    assert params.evaluation_params.type == "market_evaluate"
    # The shipped eval_params.json evaluates what they train.
    params, _ = load_eval_params(ROOT / "eval_params.json", plugin_options=plugin_options)
    assert params.model_path == Params().working_dir
    assert params.batches_dir is None


def test_all_json_files_are_covered() -> None:
    shipped = {path for path in ROOT.glob("*.json") if path.name != "eval_result.json"}
    assert shipped == {ROOT / "params.json", ROOT / "eval_params.json"}
