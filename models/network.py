"""The re-ID network: a backbone and branches on its feature maps."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from models.backbones import registry
from models.backbones.backbone import Backbone
from models.classifiers import CosineClassifier, LinearClassifier
from models.heads import BranchHead
from models.options import ModelParams
from models.outputs import (
    GLOBAL,
    PARTS,
    PENULTIMATE,
    BranchOutput,
    FeatureKind,
    NetworkSizes,
    concat_parts,
    mean_logits,
    scaled,
)
from models.pooling import Pooling


class ReidNetwork(nn.Module):
    """Backbone and branches.

    Args:
        backbone: images -> feature map.
        branches: heads by name, in the order of the embedding.
        spectral_sigma: temperature of the spectral transform in training; 0 = the network has none.
        retrieval_of: what `embed` returns of each branch.
        map_of: which of the backbone's maps each branch sees, and which is the class token before the last block.
    """

    def __init__(
        self,
        backbone: Backbone,
        branches: dict[str, BranchHead],
        spectral_sigma: float = 0.0,
        retrieval_of: FeatureKind = "embeddings",
        map_of: Mapping[str, int] = {PARTS: 0, GLOBAL: -1},
    ) -> None:
        super().__init__()
        self.map_of = dict(map_of)
        self.spectral_sigma = spectral_sigma
        self.retrieval_of: FeatureKind = retrieval_of
        self.backbone: Backbone = backbone
        self.branches = nn.ModuleDict(branches)
        self.embedding_dim = sum(branch.num_parts * branch.dim for branch in branches.values())

    def forward(self, images: Tensor, spectral: bool = False, camids: Tensor | None = None) -> dict[str, BranchOutput]:
        """Normalised images (B, 3, H, W) -> output of every branch, by name; for training.

        With `spectral` also that of the spectral transform, if the network has one. The cameras `camids` (B,) of the
        images matter to camera embedding and style mixing only; None = unknown.
        """
        sigma = self.spectral_sigma if spectral else 0.0
        maps = self.backbone.maps(images, camids)
        output = {name: head(feature_map, sigma) for name, head, feature_map in self._heads_and_maps(maps)}
        if PENULTIMATE in self.map_of:
            token = maps[self.map_of[PENULTIMATE]].flatten(1)
            output[GLOBAL] = output[GLOBAL]._replace(penultimate=token[None])
        return output

    def embed(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        """Normalised images (B, 3, H, W) -> concatenated embeddings (B, D) of all parts and branches, or features, as
        `retrieval_of` says; for retrieval. Cameras as in `forward`.
        """
        side = 0 if self.retrieval_of == "features" else 1
        maps = self.backbone.maps(images, camids)
        return concat_parts(
            [scaled(head.embed(seen)[side], head.retrieval_scale) for _, head, seen in self._heads_and_maps(maps)]
        )

    @property
    def camids(self) -> tuple[int, ...]:
        """The cameras that have an embedding; empty for a network without. Waits for the device."""
        embedding = self.backbone.camera_embedding
        return () if embedding is None else tuple(embedding.get_buffer("camids").tolist())

    @property
    def scores_cover(self) -> bool:
        """Whether the class scores depend on every trained parameter."""
        return all(head.bn is None or head.classifier_of == "embeddings" for head in self.heads())

    @property
    def sizes(self) -> NetworkSizes:
        """Sizes of the outputs."""
        num_classes = self.heads()[0].classifier.weight.shape[-1]
        dims = {name: (head.num_parts, head.dim) for name, head in zip(self.branches, self.heads(), strict=True)}
        return NetworkSizes(num_classes, dims)

    def classifiers(self) -> list[nn.Module]:
        """The classification layer of each branch."""
        return [head.classifier for head in self.heads()]

    def heads(self) -> list[BranchHead]:
        """The branches in the order of the embedding."""
        return list(self.branches.values())  # pyright: ignore[reportReturnType]

    def _heads_and_maps(self, maps: Sequence[Tensor]) -> Iterator[tuple[str, BranchHead, Tensor]]:
        """Each branch and its feature map."""
        for name, head in zip(self.branches, self.heads(), strict=True):
            yield name, head, maps[self.map_of[name]]


class Embedder(nn.Module):
    """A network for evaluation: normalised images (B, 3, H, W) -> embeddings (B, D).

    Args:
        network: shared, not copied.
        labels: pid of each of the N classes: the sorted pids of the training set.

    Attributes:
        reported: cameras without an embedding of which the log tells.
    """

    def __init__(self, network: ReidNetwork, labels: Sequence[int] = ()) -> None:
        super().__init__()
        self.network = network
        self.labels = tuple(labels)
        self.reported: set[int] = set()

    @property
    def branch_dims(self) -> tuple[int, ...]:
        """Size of each part of each branch, in the order of the embedding; they add up to D."""
        return tuple(head.dim for head in self.network.heads() for _ in range(head.num_parts))

    @property
    def camids(self) -> tuple[int, ...]:
        """The cameras that have an embedding; empty for a network without."""
        return self.network.camids

    @property
    def is_compiled(self) -> bool:
        """Whether `compile` was called."""
        return self._compiled_call_impl is not None

    def forward(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        """Normalised images (B, 3, H, W) and their cameras (B,) -> embeddings (B, D), not yet of unit length."""
        return self.network.embed(images, camids)

    def logits(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        """Normalised images (B, 3, H, W) and their cameras (B,) -> class scores of the whole network (B, N)."""
        # Not a call of the module, which would run code compiled for training.
        return mean_logits(self.network.forward(images, camids=camids))


def build_network(
    options: ModelParams,
    num_classes: int,
    image_size: tuple[int, int] = (256, 128),
    camids: Sequence[int] = (),
) -> ReidNetwork:
    """The network that `model_params` describes, randomly initialised, for N = num_classes identities.

    With stripes, `feature_dim` is divided among them, and `feature_global_dim` adds a global branch; without, there is
    one feature of the whole map. The branches of other heads are described in `models/multi_branch.py`.

    Args:
        options: the params' `model_params`.
        num_classes: N.
        image_size: height and width of the images, for a backbone that depends on them.
        camids: the cameras of the training set, for a backbone with camera embedding.

    Raises:
        ValueError: a camera embedding, but no cameras.
    """
    backbone = build_backbone(options, image_size)
    if options.camera_embedding:
        if not camids:
            raise ValueError("camera_embedding needs the cameras of the training set")
        backbone.add_camera_embedding(camids, options.camera_embedding)
    if options.mixstyle:
        # Only who uses it imports it.
        from models.mixstyle import MixStyle

        backbone.add_style_mixing(MixStyle(options.mixstyle, options.mixstyle_alpha, options.mixstyle_across_cameras))
    if options.head != "pcb":
        # Only who uses it imports it.
        from models.multi_branch import build_branches

        branches, map_of = build_branches(options, backbone, num_classes)
        return ReidNetwork(backbone, branches, retrieval_of=options.retrieval_of, map_of=map_of)

    def head(num_parts: int, dim: int, *, is_global: bool) -> BranchHead:
        return build_head(options, backbone.out_channels, num_parts, dim, num_classes, is_global=is_global)

    if options.pcb_n_parts == 0:
        branches = {GLOBAL: head(1, options.feature_dim, is_global=False)}
    else:
        branches = {PARTS: head(options.pcb_n_parts, options.feature_dim // options.pcb_n_parts, is_global=False)}
        if options.feature_global_dim:
            dim = 0 if options.feature_global_dim == "pooled" else options.feature_global_dim
            branches[GLOBAL] = head(1, dim, is_global=True)
    return ReidNetwork(backbone, branches, options.spectral_trans, options.retrieval_of)


def camids_in(state: Mapping[str, Tensor]) -> list[int]:
    """The cameras that have an embedding in the state dict of a network."""
    camids = state.get("backbone.camera_embedding.camids")
    return [] if camids is None else camids.tolist()


def build_backbone(options: ModelParams, image_size: tuple[int, int]) -> Backbone:
    """The backbone that `model_params` describes, randomly initialised, for images of this height and width."""
    backbone = registry.build_backbone(options, image_size)
    if options.global_own_stage4:
        backbone.add_copy(GLOBAL)
    return backbone


def build_head(
    options: ModelParams,
    in_channels: int,
    num_parts: int,
    dim: int,
    num_classes: int,
    *,
    is_global: bool,
    pooling: Pooling | nn.Module | None = None,
    retrieval_scale: float = 1.0,
) -> BranchHead:
    """One branch; `is_global` for the global branch beside stripes, not for a single feature.

    A single feature has the stripes' settings of pooling and dropout, and the global ones of mask and erasing, as it
    sees the whole map. `pooling` replaces the setting.
    """
    of_whole_map = is_global or options.pcb_n_parts == 0
    if options.classifier == "cosine":
        classifier = CosineClassifier(num_parts, dim or in_channels, num_classes, options.cosine_scale)
    else:
        classifier = LinearClassifier(num_parts, dim or in_channels, num_classes, options.classifier_bias)
    return BranchHead(
        in_channels,
        num_parts,
        dim,
        classifier,
        pooling=pooling or (options.global_pooling if is_global else options.part_pooling),
        neck=options.neck,
        relu=options.embedding_relu,
        classifier_of=options.classifier_of,
        mask=options.feature_mask in ("all", "global" if of_whole_map else "parts"),
        erasing=options.global_feature_erasing if of_whole_map else options.part_feature_erasing,
        map_dropout=0.0 if is_global else options.pcb_dropout,
        feature_dropout=options.feature_dropout,
        retrieval_scale=retrieval_scale,
    )
