"""Finds operations that a GPU cannot compute deterministically, without a GPU."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

RAISING = frozenset(
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
SLOW = frozenset(
    {
        "scatter", "scatter_", "scatter_add", "scatter_add_", "index_add", "index_add_", "index_copy", "index_copy_",
        "cumsum", "cumsum_", "embedding_dense_backward", "replication_pad2d_backward",
    }
)  # fmt: skip
"""Become much slower there."""


class OpsSeen(TorchDispatchMode):
    """Collects the names of all operations within the context, those of backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    @property
    def not_deterministic(self) -> set[str]:
        return self.names & (RAISING | SLOW)
