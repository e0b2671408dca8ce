"""How a convolutional network of timm divides into stages."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from inspect import signature
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.backbone import BackboneError
from utils.errors import first_line

MODEL = "model_params.model"
TRACED_SIZE = 256
"""Height and width of the images on which a network is traced."""


class Outline(NamedTuple):
    """How a network is divided, and what it can do."""

    out_channels: int
    """Channels of its feature map."""
    stages: tuple[tuple[str, ...], ...]
    """Names of its modules, which run one after another; a stage begins where the resolution falls."""
    keeps_resolution: bool
    """Whether its last stage runs with stride 1."""
    arguments: frozenset[str]
    """Names of what timm can build it from."""


@lru_cache
def outline_of(name: str) -> Outline:
    """Trace a network on the meta device, which computes shapes only.

    Raises:
        BackboneError: its output is not a feature map, or its modules do not run one after another.
    """
    with torch.device("meta"):
        images = torch.empty(1, 3, TRACED_SIZE, TRACED_SIZE)
        try:
            network = create_model(name).eval()
            calls, output = _trace(network, images)
        # A network may refuse the size, or to lack its pooling, with an error of any type.
        except Exception as error:
            text = f"timm:{name} does not run without its pooling on images of another size: {first_line(error)}"
            raise BackboneError((MODEL,), text) from error
        channels = {network.num_features, getattr(network, "head_hidden_size", None)}
        if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[1] not in channels:
            text = f"the output of timm:{name} is not a feature map; take a convolutional network"
            raise BackboneError((MODEL,), text)
        pieces = list(_pieces(network, _chain(name, calls, images, output), {call.name: call for call in calls}))
        stages = _stages(network, pieces)
        keeps_resolution = _keeps_resolution(network, stages[-1], images, output)
    return Outline(output.shape[1], stages, keeps_resolution, frozenset(signature(type(network)).parameters))


def create_model(name: str, **options: Any) -> nn.Module:
    """A network of timm without pooling and classifier, randomly initialised."""
    return timm.create_model(name, num_classes=0, global_pool="", **options)


class Call(NamedTuple):
    """A call of a module."""

    name: str
    depth: int
    """Modules around it; 0 for the whole network."""
    before: tuple[int, int]
    """Identity and version of its input: they change with any operation, even one in place."""
    after: tuple[int, int]
    """Those of its output."""
    reduction: float
    """Rows of its input per row of its output."""


def _trace(network: nn.Module, images: Tensor) -> tuple[list[Call], Any]:
    """The calls of all modules, in the order in which they end, and the output."""
    names = {module: name for name, module in network.named_modules()}
    calls: list[Call] = []
    around: list[tuple[int, int]] = []
    kept: list[Any] = []

    def enter(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        around.append(_state(inputs[0] if inputs else None))

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        before = around.pop()
        # An identity may only be used again once its object is gone.
        kept.extend((inputs, output))
        reduction = _rows(inputs[0] if inputs else None) / _rows(output)
        calls.append(Call(names[module], len(around), before, _state(output), reduction))

    for module in names:
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
    return calls, network(images)


def _state(value: Any) -> tuple[int, int]:
    return id(value), value._version if isinstance(value, Tensor) else -1


def _rows(value: Any) -> int:
    return value.shape[2] if isinstance(value, Tensor) and value.dim() == 4 else 1


def _chain(name: str, calls: Sequence[Call], images: Tensor, output: Tensor) -> list[Call]:
    """The modules of the network itself, each of which takes what the one before it returns.

    Raises:
        BackboneError: the network does something else.
    """
    chain = [call for call in calls if call.depth == 1]
    states = [_state(images), *(call.after for call in chain)]
    if [call.before for call in chain] != states[:-1] or _state(output) != states[-1]:
        text = f"the modules of timm:{name} do not run one after another, as stages must; take another network"
        raise BackboneError((MODEL,), text)
    # Where nothing happens, such as in a pooling that was removed, there is nothing to run.
    return [call for call in chain if call.before != call.after]


def _pieces(network: nn.Module, chain: Sequence[Call], by_name: Mapping[str, Call]) -> Iterator[Call]:
    """The chain, its sequences of several stages taken apart."""
    for call in chain:
        module = network.get_submodule(call.name)
        if type(module).forward is nn.Sequential.forward and call.reduction >= 3:
            inner = [by_name[f"{call.name}.{child}"] for child, _ in module.named_children()]
            yield from _pieces(network, inner, by_name)
        else:
            yield call


def _stages(network: nn.Module, pieces: Sequence[Call]) -> tuple[tuple[str, ...], ...]:
    """The names of the pieces by stage; each stage has parameters."""

    def has_parameters(names: Sequence[str]) -> bool:
        return any(True for name in names for _ in network.get_submodule(name).parameters())

    stages: list[list[str]] = [[]]
    for piece in pieces:
        if piece.reduction >= 1.5 and has_parameters(stages[-1]):
            stages.append([])
        stages[-1].append(piece.name)
    if not has_parameters(stages[-1]):
        stages[-2:] = [[*stages[-2], *stages[-1]]]
    return tuple(tuple(stage) for stage in stages)


def _keeps_resolution(network: nn.Module, stage: Sequence[str], images: Tensor, output: Tensor) -> bool:
    """Whether the network runs, with a map of twice the height and width, once its last stage has no stride."""
    remove_stride(network, stage)
    try:
        return network(images).shape[2:] == tuple(2 * size for size in output.shape[2:])
    except RuntimeError:
        # Something else, such as a maximum pooling, halves the resolution of a part of the stage.
        return False


def remove_stride(network: nn.Module, stage: Sequence[str]) -> None:
    """Let the modules of a stage keep the resolution: no convolution and no pooling of a shortcut has a stride.

    The weights and their dilation stay. Source: Luo et al. 2019, arXiv 1903.07071, section 3.5.
    """
    inside = [
        (f"{name}.{inner}" if inner else name, module)
        for name in stage
        for inner, module in network.get_submodule(name).named_modules()
    ]
    for name, module in inside:
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
            if type(module) is nn.Conv2d and module.kernel_size == (2, 2) and module.padding == (0, 0):
                module.__class__ = OverlappingPatches
        elif isinstance(module, nn.AvgPool2d) and module.stride in (2, (2, 2)):
            if module.kernel_size in (2, (2, 2)):
                network.set_submodule(name, nn.Identity())
            else:
                module.stride = 1


class OverlappingPatches(nn.Conv2d):
    """A convolution of patches, such as ConvNeXt's, that runs with stride 1 and keeps the resolution."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H, W)."""
        rows, columns = self.kernel_size
        return super().forward(F.pad(input, (0, columns - 1, 0, rows - 1)))
