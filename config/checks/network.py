"""The network's branches: stripes, the global branch, and what acts on either."""

from collections.abc import Iterator

from config.checks.conflict import Check, Conflict, multiples
from config.params import Params
from models.geometry import band_rows, feature_map_size

STRIPES = "model_params.pcb_n_parts"
GLOBAL_DIM = "model_params.feature_global_dim"


def stripes_share_embedding(params: Params) -> Iterator[Conflict]:
    """Every stripe has an equal share of the embedding."""
    size, stripes = params.model_params.feature_dim, params.model_params.pcb_n_parts
    if stripes and size % stripes:
        text = f"{size} does not divide into {STRIPES} {stripes}; {multiples(size, stripes)}"
        yield Conflict(("model_params.feature_dim", STRIPES), text)


def stripes_share_rows(params: Params) -> Iterator[Conflict]:
    """Every stripe has the same number of rows of the feature map."""
    model = params.model_params
    rows, _ = feature_map_size(params.img_h, params.img_w, model.stride)
    if model.pcb_n_parts and rows % model.pcb_n_parts:
        text = (
            f"{model.pcb_n_parts} stripes do not divide the {rows} rows of the feature map (img_h {params.img_h}, "
            f"model_params.last_conv_stride {model.last_conv_stride}); "
            f"for img_h {multiples(params.img_h, model.pcb_n_parts * model.stride)}"
        )
        yield Conflict((STRIPES, "img_h", "model_params.last_conv_stride"), text)


def global_branch_has_stripes(params: Params) -> Iterator[Conflict]:
    """The global branch stands beside stripes; without them the single feature is the global one."""
    model = params.model_params
    if model.feature_global_dim and not model.pcb_n_parts:
        text = f"needs {STRIPES} above 0; without stripes use model_params.feature_dim"
        yield Conflict((GLOBAL_DIM, STRIPES), text)
    if model.global_own_stage4 and not model.feature_global_dim:
        text = f"needs a global branch beside stripes; give {GLOBAL_DIM}"
        yield Conflict(("model_params.global_own_stage4", GLOBAL_DIM), text)


def global_settings_have_a_branch(params: Params) -> Iterator[Conflict]:
    """The global branch's own pooling and normalisation need one beside stripes; the single feature has the parts'."""
    model = params.model_params
    if model.feature_global_dim:
        return
    for name, of_parts in (("global_pooling", "part_pooling"), ("global_bn", "part_bn")):
        if getattr(model, name) != type(model).model_fields[name].default:
            text = f"needs a global branch beside stripes; give {GLOBAL_DIM}, or use model_params.{of_parts}"
            yield Conflict((f"model_params.{name}", GLOBAL_DIM), text)
    if not model.bn_bias and not model.part_bn:
        text = "leaves a bias out of a normalisation that model_params.part_bn false leaves out whole"
        yield Conflict(("model_params.bn_bias", "model_params.part_bn"), text)


def masked_branches_exist(params: Params) -> Iterator[Conflict]:
    """A feature mask gates a branch that the network has."""
    model, key = params.model_params, "model_params.feature_mask"
    if model.feature_mask == "parts" and not model.pcb_n_parts:
        yield Conflict((key, STRIPES), f'"parts" needs {STRIPES} above 0; without stripes use "global" or "all"')
    if model.feature_mask == "global" and _has_only_stripes(params):
        yield Conflict((key, GLOBAL_DIM, STRIPES), f'"global" needs a global branch; give {GLOBAL_DIM}, or use "parts"')


def erased_branches_exist(params: Params) -> Iterator[Conflict]:
    """Feature erasing acts on the map of a branch that the network has."""
    model = params.model_params
    parts, whole = "model_params.part_feature_erasing", "model_params.global_feature_erasing"
    if model.part_feature_erasing > 0 and not model.pcb_n_parts:
        yield Conflict((parts, STRIPES), f"needs {STRIPES} above 0; without stripes use {whole}")
    if model.global_feature_erasing > 0 and _has_only_stripes(params):
        yield Conflict((whole, GLOBAL_DIM, STRIPES), f"needs a global branch; give {GLOBAL_DIM}, or use {parts}")


def erased_bands_have_rows(params: Params) -> Iterator[Conflict]:
    """An erased band is at least one row, and leaves one."""
    model = params.model_params
    rows, _ = feature_map_size(params.img_h, params.img_w, model.stride)
    keys = ("img_h", "model_params.last_conv_stride")
    if model.pcb_n_parts and rows % model.pcb_n_parts == 0:
        text = _band_mistake(model.part_feature_erasing, rows // model.pcb_n_parts, f"a stripe ({STRIPES}, img_h)")
        if text:
            yield Conflict(("model_params.part_feature_erasing", STRIPES, *keys), text)
    if not _has_only_stripes(params):
        text = _band_mistake(model.global_feature_erasing, rows, "the feature map (img_h)")
        if text:
            yield Conflict(("model_params.global_feature_erasing", *keys), text)


def left_out_branches_leave_some(params: Params) -> Iterator[Conflict]:
    """Branches are left out of an update where others are updated, and by one rule."""
    model = params.model_params
    for name in ("random_drop_branches", "update_max_loss_branch"):
        if getattr(model, name) and model.pcb_n_parts < 2:
            text = f"chooses among stripes; it needs {STRIPES} of at least 2, got {model.pcb_n_parts}"
            yield Conflict((f"model_params.{name}", STRIPES), text)
    if model.update_max_loss_branch and model.random_drop_branches:
        text = "and model_params.random_drop_branches both choose the stripes to update; use one of them"
        yield Conflict(("model_params.update_max_loss_branch", "model_params.random_drop_branches"), text)
    if model.update_max_loss_branch and params.tri_loss_lambda_cls == 0:
        text = "chooses by the classification loss, but tri_loss_lambda_cls is 0"
        yield Conflict(("model_params.update_max_loss_branch", "tri_loss_lambda_cls"), text)


def _has_only_stripes(params: Params) -> bool:
    return params.model_params.pcb_n_parts > 0 and params.model_params.feature_global_dim == 0


def _band_mistake(share: float, rows: int, where: str) -> str:
    """What is wrong with erasing this share of so many rows; "" for nothing."""
    band = band_rows(rows, share)
    if share == 0 or 0 < band < rows:
        return ""
    if rows == 1:
        return f"needs at least 2 rows, and {where} has 1"
    return f"{share:g} of the {rows} rows of {where} is {band} whole rows; a band has 1 to {rows - 1}"


CHECKS: tuple[Check[Params], ...] = (
    stripes_share_embedding,
    stripes_share_rows,
    global_branch_has_stripes,
    global_settings_have_a_branch,
    masked_branches_exist,
    erased_branches_exist,
    erased_bands_have_rows,
    left_out_branches_leave_some,
)
