"""The contract of all backbones: images in, feature map out."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from utils.errors import ParamsError
from utils.options import Options

ResNetVariant = Literal["torchvision", "fastreid"]
HEAD, MODEL, CAMERAS = "model_params.head", "model_params.model", "model_params.camera_embedding"
NEEDS_TOKENS = f"needs a vision transformer (ViT) of timm, but {MODEL} is {{}}; use a timm:vit_... model"
"""How a message goes on; the network's name is filled in."""


class BackboneOptions(Options):
    """The settings that a backbone is built from."""

    model: str = "resnet_50"
    """Backbone: a ResNet of torchvision, an OSNet, or "timm:NAME" for a CNN or a transformer of timm."""
    last_conv_stride: Literal[1, 2] = 1
    """Stride of the last stage: 1 keeps twice the height and width of the feature map, or all where it has none."""
    zero_init_residual: bool = False
    """Zero-initialise the last BN weight of each residual block (Goyal et al. 2017)."""
    ibn: bool = False
    """IBN-a in layer1 to layer3 of a ResNet: half of each block's first BN is InstanceNorm (Pan et al. 2018)."""
    non_local: bool = False
    """A non-local block after each of a ResNet's last 2 blocks of layer2 and last 3 of layer3 (Wang et al. 2018)."""
    resnet_variant: ResNetVariant = "torchvision"
    """Whose ResNet: fast-reid's pools without padding, and its non-local blocks have one inner channel."""
    patch_stride: int = Field(default=0, ge=0)
    """Pixels between the patches of a vision transformer; TransReID has 12 for patches of 16; 0 = the patch size."""
    semantic_weight: float | None = Field(default=None, ge=0.0, le=1.0)
    """Semantic weight of a Swin Transformer with SOLIDER's weights (Chen et al. 2023), 0.2 for re-ID; null = none."""
    drop_path: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Stochastic depth of a network of timm: rate at the last block, less before (Huang et al. 2016); 0 = off."""


class BackboneError(ParamsError):
    """A backbone that the params ask for and that cannot be built.

    Args:
        keys: of the params that do not go together; the message is shown at the first.
        text: what is wrong and what to do.
    """

    def __init__(self, keys: tuple[str, ...], text: str) -> None:
        super().__init__(f"{keys[0]}: {text}")
        self.keys = keys
        self.text = text


class Backbone(nn.Module):
    """(B, 3, H, W) normalised images -> (B, C, h, w) feature map.

    A subclass registers its layers and implements `trunk`. Where the global branch should see something else than the
    map, such as a class token, it overrides `maps`.

    Args:
        out_channels: C.
        stage_names: names of the submodules and parameters of each stage, from input to output: the parameters of a
            stage are those with one of its names, alone or followed by a dot. The last stage names modules, which run
            one after another.
    """

    def __init__(self, out_channels: int, stage_names: tuple[tuple[str, ...], ...]) -> None:
        super().__init__()
        self.model_name = type(self).__name__
        """Its name in the params, once it is built from these; for messages."""
        self.out_channels = out_channels
        self.stage_names = stage_names
        self.last = stage_names[-1]
        """Names of the modules after the trunk, which run one after another."""
        self.copies: tuple[tuple[str, ...], ...] = ()
        """Names of the copies of the modules `last` that each further branch of the network has for itself."""
        self.before_last: tuple[str, ...] = ()
        """Names of the modules that end the trunk, for a subclass that can be split among them."""
        self.added: tuple[str, ...] = ()
        """Names of the modules that no pretrained weights have."""
        self.camera_embedding: nn.Module | None
        self.register_module("camera_embedding", None)
        self.style_mixing: nn.Module | None
        self.register_module("style_mixing", None)

    def trunk(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        """What all branches share, such as all stages but the last: images (B, 3, H, W) -> input of the rest.

        Their cameras (B,) matter to `style_mixing` only.
        """
        raise NotImplementedError

    def mix_styles(self, features: Tensor, camids: Tensor | None) -> Tensor:
        """Apply `style_mixing`, if there is one: map and cameras of the images -> map."""
        return features if self.style_mixing is None else self.style_mixing(features, camids)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> feature map (B, C, h, w)."""
        return self.run((*self.last, *self.added), self.trunk(images))

    def run(self, names: Iterable[str], features: Tensor) -> Tensor:
        """Apply submodules, by their names, one after another."""
        for name in names:
            features = self.get_submodule(name)(features)
        return features

    def maps(self, images: Tensor, camids: Tensor | None = None) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> the maps (B, C, h, w) that the branches see: that of `forward`, and one of each copy.

        Stripes see the first, and the global branch, or the single feature, the last. An override may return a map of
        any size as the last: a class token is one of (B, C, 1, 1).

        Args:
            images: normalised.
            camids: (B,) int64, the cameras; None = unknown. They matter to camera embedding and style mixing only.
        """
        features = self.trunk(images, camids)
        first = self.run((*self.last, *self.added), features)
        return first, *(self.run(names, features) for names in self.copies)

    def stages_above(self, name: str) -> int:
        """How many stages follow that of a parameter, given by its name in this backbone."""
        for depth, stage in enumerate(reversed(self.stage_names)):
            if any(name == prefix or name.startswith(f"{prefix}.") for prefix in stage):
                return depth
        raise ValueError(f"{name}: in no stage of {type(self).__name__}")

    def split_early(self) -> None:
        """End the trunk after the first block of the last stage but one, so that more of the network can be copied.

        Raises:
            ValueError: this backbone cannot be split there.
        """
        if not self.before_last:
            raise ValueError(f"{type(self).__name__} cannot be split within a stage")
        (stage,) = self.before_last
        first, *others = (f"{stage}.{name}" for name, _ in self.get_submodule(stage).named_children())
        self.before_last, self.last = (first,), (*others, *self.last)

    def add_copy(self, suffix: str) -> None:
        """Give a further branch its own copy of what follows the trunk, which starts with the same weights.

        Args:
            suffix: of the names of its modules.
        """
        copies = tuple(f"{name.replace('.', '_')}_{suffix}" for name in self.last)
        for name, copy in zip(self.last, copies, strict=True):
            self._add_to_stage(copy, deepcopy(self.get_submodule(name)), self.stages_above(name))
        self.copies = (*self.copies, copies)

    def add_block(self, name: str) -> None:
        """Let another block like the last follow the modules `last`, but no copy of them; randomly initialised."""
        *_, last_block = self.get_submodule(self.stage_names[-1][0]).children()
        block = deepcopy(last_block)
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
                module.reset_parameters()
        self._add_to_stage(name, block, 0)
        self.added = (*self.added, name)

    def add_projection(self, dim: int) -> None:
        """Let branches also see a linear projection of the class token to `dim`, and the token before the last stage.

        `maps` then ends with those two and the class token.

        Raises:
            ValueError: this backbone has no class token.
        """
        raise ValueError(f"{type(self).__name__} has no class token to project")

    def add_jigsaw(self, num_parts: int) -> None:
        """Let `maps` return a third map, of the class tokens of rearranged patches, for a vision transformer.

        Raises:
            BackboneError: this backbone has no class token, or too few patches.
        """
        raise BackboneError((HEAD, MODEL), f'"jpm" {NEEDS_TOKENS.format(self.model_name)}')

    def add_camera_embedding(self, camids: Sequence[int], factor: float) -> None:
        """Add a learnable vector of its camera to the tokens of each image; for a vision transformer.

        Args:
            camids: of the cameras of the training set.
            factor: of the vectors.

        Raises:
            BackboneError: this backbone has no tokens.
        """
        raise BackboneError((CAMERAS, MODEL), NEEDS_TOKENS.format(self.model_name))

    def add_style_mixing(self, mixing: nn.Module) -> None:
        """Let the maps of the first two stages be mixed between images in training, for a ResNet or an OSNet.

        Args:
            mixing: (map, cameras or None) -> map of the same shape.

        Raises:
            BackboneError: this is another backbone.
        """
        text = f"is for torchvision's ResNets and OSNets, but {MODEL} is {self.model_name}; set it to 0"
        raise BackboneError(("model_params.mixstyle", MODEL), text)

    def _add_to_stage(self, name: str, module: nn.Module, depth: int) -> None:
        """Register a module as one of the stage that so many others follow."""
        self.add_module(name, module)
        stages = [*self.stage_names]
        stages[-1 - depth] = (*stages[-1 - depth], name)
        self.stage_names = tuple(stages)

    def complete_state(self, state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """A state dict in which missing copies are those of the modules `last`.

        Args:
            state: of this backbone.
            prefix: of all names in the state.
        """
        completed = dict(state)
        for copies in self.copies:
            if any(key.startswith(tuple(f"{prefix}{copy}." for copy in copies)) for key in state):
                continue
            for name, copy in zip(self.last, copies, strict=True):
                shared, own = f"{prefix}{name}.", f"{prefix}{copy}."
                completed |= {own + key.removeprefix(shared): state[key] for key in state if key.startswith(shared)}
        return completed

    def with_own_names(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The state dict of another library for this network, with the names of this backbone.

        Raises:
            ValueError: the names are another library's and cannot be translated.
        """
        return state

    def imagenet_state(self) -> Mapping[str, Tensor]:
        """State dict of ImageNet weights, with the names of this backbone.

        Raises:
            ParamsError: there are none for this backbone.
            DataError: they cannot be read or downloaded.
        """
        raise ParamsError(f"imagenet_pretrain: there are no weights for {type(self).__name__}; set it to false")

    def load_imagenet(self) -> None:
        """Load ImageNet weights; what no such weights have stays as it is. Raises as `imagenet_state`."""
        added = tuple(f"{name}." for name in self.added)
        here = {key: value for key, value in self.state_dict().items() if key.startswith(added)}
        self.load_state_dict({**here, **self.complete_state(self.imagenet_state())})
