"""What a plug-in finds on its `config`."""

import copy
import pickle

import pytest
import torch
from torch import nn

from config.params import Params
from data.features import Features, TestFeatures
from evaluate.core.context import EvalContext
from utils.errors import ParamsError


def test_every_key_of_the_params_is_an_attribute():
    params = Params(img_h=64)
    context = EvalContext(params, nn.Identity())
    assert {key: getattr(context, key) for key in Params.model_fields} == dict(params)
    with pytest.raises(AttributeError, match="img_hight"):
        _ = context.img_hight


def test_the_network_is_there_unless_features_are_evaluated():
    network = nn.Identity()
    assert EvalContext(Params(), network).online_net is network
    empty = Features(torch.empty(0, 2), torch.empty(0), torch.empty(0), [])
    context = EvalContext(Params(batches_dir="saved.npz"), features=TestFeatures(empty, empty))
    assert not context.has_net
    with pytest.raises(ParamsError, match=r"saved\.npz holds features only"):
        _ = context.online_net


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda context: pickle.loads(pickle.dumps(context))])
def test_a_context_can_be_copied_and_pickled(copied):
    context = copied(EvalContext(Params(img_h=64), nn.Linear(2, 3)))
    assert (context.params, context.img_h) == (Params(img_h=64), 64)
    assert context.online_net.weight.shape == (3, 2)


def test_model_copy_changes_params_and_keeps_the_network():
    network = nn.Identity()
    context = EvalContext(Params(img_h=64), network)
    changed = context.model_copy(update={"img_h": 128})
    assert (context.img_h, changed.img_h) == (64, 128)
    assert changed.online_net is network
