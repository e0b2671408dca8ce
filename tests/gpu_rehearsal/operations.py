"""Operations that a GPU treats in a way of its own."""

import torch

aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default, aten._foreach_copy_.default, aten._pin_memory.default)
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
"""They take indices of the CPU, too."""
ANY_SCALAR = (aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor)
"""They take a scalar tensor of the CPU, as pointwise operations do."""
READING = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
"""Operations that read values, or whose result has a size that depends on values."""
NOT_DETERMINISTIC = frozenset(
    {
        "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
        "adaptive_max_pool3d_backward", "avg_pool3d_backward", "fractional_max_pool2d_backward",
        "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward",
        "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward",
        "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward", "reflection_pad1d_backward",
        "reflection_pad2d_backward", "reflection_pad3d_backward", "nll_loss2d_forward", "nll_loss2d_backward",
        "_ctc_loss_backward", "_embedding_bag_backward", "put", "put_", "histc", "bincount", "median", "nanmedian",
        "kthvalue", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "scatter_reduce", "scatter_reduce_",
    }
)  # fmt: skip
"""Raise an error on a GPU under `torch.use_deterministic_algorithms`; the documentation of that function lists them."""
SLOW_IF_DETERMINISTIC = frozenset(
    {
        "scatter", "scatter_", "scatter_add", "scatter_add_", "index_add", "index_add_", "index_copy", "index_copy_",
        "cumsum", "cumsum_", "embedding_dense_backward", "replication_pad2d_backward",
    }
)  # fmt: skip
"""Become much slower there."""
