"""What a plug-in finds on its `config`."""

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
