"""The branches of the network: stripes, the global branch, and the options of either."""

from collections.abc import Iterator
from math import lcm

from config.checks.conflict import Conflict, multiples
from config.params import Params
from losses.options import METRIC_SECTIONS
from models.backbones.backbone import HEAD, MODEL, BackboneError
from models.backbones.registry import OSNETS, global_map_size, map_size
from models.backbones.resnet import DEPTHS
from models.erasing import band_rows
from models.options import ModelParams
from models.outputs import PARTS

STRIPES = "model_params.pcb_n_parts"
GLOBAL_DIM = "model_params.feature_global_dim"
SIGMA = "model_params.spectral_trans"
NECK = "model_params.neck"
CLASSIFIER_OF, RETRIEVAL_OF = "model_params.classifier_of", "model_params.retrieval_of"
OF_PCB = (
    *("pcb_n_parts", "feature_global_dim", "global_own_stage4", "feature_mask", "pcb_dropout", "part_feature_erasing"),
    *("global_feature_erasing", "random_drop_branches", "update_max_loss_branch", "spectral_trans"),
)
"""Settings that other heads do not have."""
TALL = 512
"""Height of images whose rows show how many pixels a row has."""


def head_options_are_used(params: Params) -> Iterator[Conflict]:
    """Other heads than "pcb" have their own branches, on backbones that have what these see."""
    model = params.model_params
    if model.head == "pcb":
        return
    sees_tokens = model.head in ("clip", "jpm")
    for name in (*OF_PCB, "part_pooling", "global_pooling") if sees_tokens else OF_PCB:
        if getattr(model, name) != type(model).model_fields[name].default:
            text = f'belongs to {HEAD} "pcb", but that is "{model.head}"; leave one of them out'
            if name not in OF_PCB:
                text = f'has no effect: {HEAD} "{model.head}" has the class token, which is not pooled; leave it out'
            yield Conflict((f"model_params.{name}", HEAD), text)
    if not sees_tokens and model.model not in DEPTHS and model.model not in OSNETS:
        text = f'"{model.head}" copies stages of a ResNet or OSNet, but {MODEL} is {model.model}; use one of those'
        yield Conflict((HEAD, MODEL), text)
    if model.head in ("lightmbn", "clip") and model.feature_dim == 0:
        what = "pooled features differ in size" if model.head == "lightmbn" else "projection has a size of its own"
        text = f'needs a size with {HEAD} "{model.head}", whose {what}; use 512'
        yield Conflict(("model_params.feature_dim", HEAD), text)


def pcb_options_fit(params: Params) -> Iterator[Conflict]:
    """What the head "pcb" asks of its settings."""
    for check in PCB_CHECKS if params.model_params.head == "pcb" else ():
        yield from check(params)


def embedding_divides(params: Params) -> Iterator[Conflict]:
    """Every stripe has an equal share of the embedding."""
    size, stripes = params.model_params.feature_dim, params.model_params.pcb_n_parts
    if stripes and size % stripes:
        text = f"{size} does not divide into {STRIPES} {stripes}; {multiples(size, stripes)}"
        yield Conflict(("model_params.feature_dim", STRIPES), text)


def stripes_are_equal(params: Params) -> Iterator[Conflict]:
    """Every stripe has an equal share of the rows of the feature map."""
    model = params.model_params
    # The parts of JPM are tokens.
    counts = [number for name, number in model.branches.items() if name.startswith(PARTS) and model.head != "jpm"]
    rows = _rows(params, params.img_h) if counts else 0
    if any(rows % number for number in counts):
        key, stride = (STRIPES if model.head == "pcb" else HEAD), _of_stripes(model).last_conv_stride
        heights = " or ".join(str(height) for height in _heights_for(params, rows, lcm(*counts)))
        text = (
            f"{' and '.join(map(str, counts))} stripes do not divide the {rows} rows of the feature map of "
            f"{model.model} (img_h {params.img_h}, model_params.last_conv_stride {stride}); "
            f"{f'for img_h use {heights}' if heights else 'take another number of stripes'}"
        )
        yield Conflict((key, "img_h", MODEL, "model_params.last_conv_stride"), text)


def _of_stripes(model: ModelParams) -> ModelParams:
    """With the stride of the branches of stripes, which is always 1 with other heads than "pcb"."""
    return model if model.head == "pcb" else model.model_copy(update={"last_conv_stride": 1})


def _rows(params: Params, img_h: int) -> int:
    """Rows of the feature map of stripes for images of a height; 0 where there is none."""
    try:
        return map_size(_of_stripes(params.model_params), (img_h, params.img_w))[0]
    except BackboneError:
        return 0


def _heights_for(params: Params, rows: int, stripes: int) -> Iterator[int]:
    """The nearest heights of images, below and above, whose feature map divides into the stripes."""
    pixels = TALL // max(_rows(params, TALL), 1)
    fewer = rows // stripes * stripes
    for wanted in filter(None, (fewer, fewer + stripes)):
        # Some networks need a few pixels more for the same number of rows.
        heights = range(wanted * pixels, (wanted + 3) * pixels, pixels)
        yield from [height for height in heights if _rows(params, height) == wanted][:1]


def global_branch_exists(params: Params) -> Iterator[Conflict]:
    """The global branch stands beside stripes; its options need it."""
    model = params.model_params
    if model.feature_global_dim and not model.pcb_n_parts:
        yield Conflict((GLOBAL_DIM, STRIPES), f"needs {STRIPES} above 0; without stripes use model_params.feature_dim")
    if model.feature_global_dim:
        return
    needed = f"needs a global branch beside stripes; give {GLOBAL_DIM}"
    if model.global_own_stage4:
        yield Conflict(("model_params.global_own_stage4", GLOBAL_DIM), needed)
    if model.global_pooling != type(model).model_fields["global_pooling"].default:
        yield Conflict(("model_params.global_pooling", GLOBAL_DIM), f"{needed}, or use model_params.part_pooling")


def sides_of_the_neck_are_used(params: Params) -> Iterator[Conflict]:
    """Features differ from embeddings only where something lies between them, and something sees the embeddings."""
    model = params.model_params
    sides = {CLASSIFIER_OF: model.classifier_of, RETRIEVAL_OF: model.retrieval_of}
    usual = dict.fromkeys(sides, "embeddings")
    if params.triplet_is_on:
        sides["tri_loss_of"] = params.tri_loss_of
    for section in METRIC_SECTIONS:
        if getattr(params, section).weight > 0:
            sides[f"{section}.of"] = getattr(params, section).of
    if model.neck == "none" and not model.embedding_relu:
        for key, side in sides.items():
            if side != usual.get(key, "features"):
                yield Conflict((key, NECK), f'has no effect: with {NECK} "none" features and embeddings are the same')
    elif "embeddings" not in sides.values():
        key = "model_params.embedding_relu" if model.neck == "none" else NECK
        text = f"has no effect: {CLASSIFIER_OF}, {RETRIEVAL_OF} and the losses see the features before it"
        yield Conflict((key, CLASSIFIER_OF, RETRIEVAL_OF), text)


def changed_branches_exist(params: Params) -> Iterator[Conflict]:
    """Feature masks and feature erasing act on branches that the network has."""
    model, mask = params.model_params, "model_params.feature_mask"
    parts, whole = "model_params.part_feature_erasing", "model_params.global_feature_erasing"
    if not model.pcb_n_parts:
        needed = f"needs {STRIPES} above 0; without stripes use"
        if model.feature_mask == "parts":
            yield Conflict((mask, STRIPES), f'"parts" {needed} "global" or "all"')
        if model.part_feature_erasing > 0:
            yield Conflict((parts, STRIPES), f"{needed} {whole}")
    elif not model.feature_global_dim:
        needed = f"needs a global branch; give {GLOBAL_DIM}, or use"
        if model.feature_mask == "global":
            yield Conflict((mask, GLOBAL_DIM, STRIPES), f'"global" {needed} "parts"')
        if model.global_feature_erasing > 0:
            yield Conflict((whole, GLOBAL_DIM, STRIPES), f"{needed} {parts}")


def erased_bands_have_rows(params: Params) -> Iterator[Conflict]:
    """An erased band has at least one row, and leaves one."""
    model = params.model_params
    if not (model.part_feature_erasing or model.global_feature_erasing):
        return
    rows, stripes = _rows(params, params.img_h), model.pcb_n_parts
    global_rows = rows and global_map_size(model, (params.img_h, params.img_w))[0]
    maps: list[tuple[str, int, str]] = []
    if stripes and rows % stripes == 0:
        maps.append(("part_feature_erasing", rows // stripes, f"a stripe ({STRIPES}, img_h)"))
    if not stripes or model.feature_global_dim:
        maps.append(("global_feature_erasing", global_rows, "the feature map, or class token (img_h)"))
    for name, height, where in maps:
        share = getattr(model, name)
        band = band_rows(height, share)
        if share > 0 and height and not 0 < band < height:
            text = f"{share:g} of the {height} rows of {where} is {band} whole rows; a band has 1 to {height - 1}"
            if height == 1:
                text = f"needs at least 2 rows, and {where} has 1"
            yield Conflict((f"model_params.{name}", STRIPES, "img_h", "model_params.last_conv_stride"), text)


def updated_stripes_are_chosen_once(params: Params) -> Iterator[Conflict]:
    """A step leaves stripes out only where it updates others, and by one rule."""
    model = params.model_params
    largest, random = "model_params.update_max_loss_branch", "model_params.random_drop_branches"
    for key, on in ((random, model.random_drop_branches), (largest, model.update_max_loss_branch)):
        if on and model.pcb_n_parts < 2:
            text = f"chooses among stripes; it needs {STRIPES} of at least 2, got {model.pcb_n_parts}"
            yield Conflict((key, STRIPES), text)
    if model.update_max_loss_branch and model.random_drop_branches:
        yield Conflict((largest, random), f"and {random} both choose the stripes to update; use one of them")
    if model.update_max_loss_branch and params.tri_loss_lambda_cls == 0:
        text = "chooses by the classification loss, but tri_loss_lambda_cls is 0"
        yield Conflict((largest, "tri_loss_lambda_cls"), text)


def spectral_transform_has_effect(params: Params) -> Iterator[Conflict]:
    """The transform mixes similar images of a batch, and only the classification loss sees its result."""
    model, sampling = params.model_params, params.batch_sampling_params
    if model.spectral_trans == 0:
        for name in ("spectral_start_epoch", "spectral_start_accuracy"):
            if getattr(model, name) > 0:
                text = f"is for the spectral transform, but {SIGMA} is 0; leave this out"
                yield Conflict((f"model_params.{name}", SIGMA), text)
        return
    if not sampling.class_balanced:
        text = 'needs batch_sampling_params.class_balanced true, as with "8*4"; set it, or set 0 here'
        yield Conflict((SIGMA, "batch_sampling_params.class_balanced"), text)
    elif sampling.K < 2:
        text = "needs batch_sampling_params.K of at least 2: with one image per class there is nothing to mix"
        yield Conflict((SIGMA, "batch_sampling_params.K"), text)
    if params.tri_loss_lambda_cls == 0:
        yield Conflict((SIGMA, "tri_loss_lambda_cls"), "needs the classification loss, but tri_loss_lambda_cls is 0")
    if model.spectral_start_epoch >= params.epoch:
        text = f"{model.spectral_start_epoch} leaves no epoch of {params.epoch} for the spectral transform"
        yield Conflict(("model_params.spectral_start_epoch", "epoch", SIGMA), text)


PCB_CHECKS = (
    embedding_divides,
    global_branch_exists,
    changed_branches_exist,
    erased_bands_have_rows,
    updated_stripes_are_chosen_once,
    spectral_transform_has_effect,
)
