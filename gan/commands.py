"""What train.py needs for the operations train_gan and sample_gan."""

from collections.abc import Sequence
from pathlib import Path

from config.params import Params
from engine.commands import run_changed
from gan.sampling import write_samples
from utils.device import choose_device
from utils.errors import ParamsError

SAMPLING_CHANGES = ("batches_dir", "gan_params.condition")
"""Settings of a run that may be others for sample_gan: the paths of what a conditioned generator needs."""


def check_params(params: Params) -> None:
    """Check that params fit train_gan.

    Raises:
        ParamsError: `parallels` names several devices, or generated images are to be mixed in.
    """
    if len(params.parallels) > 1:
        raise ParamsError(f"parallels: train_gan trains on one device, got {len(params.parallels)}; name one")
    if params.gan_params.mix_ratio > 0:
        raise ParamsError("gan_params.mix_ratio: is for start_train, where a re-ID network learns; set 0 for train_gan")


def sample_gan(name: str, overrides: Sequence[str], out: Path, count: int) -> None:
    """Write pictures of the generator of `working_dir/name`.

    Raises:
        ParamsError: an override is given other than working_dir or the `SAMPLING_CHANGES`.
        DataError: there is no such run, or no generator in it.
    """
    folder, params = run_changed(name, overrides, SAMPLING_CHANGES)
    write_samples(folder.path, params, out, count, choose_device(params.parallels))
