"""What no section can check alone: settings that are fine by themselves and impossible together."""

from config.checks import batches, evaluation, generator, losses, network, spectral, training
from config.checks.conflict import Check
from config.eval_params import EvalParams
from config.params import Params

CHECKS: tuple[Check[Params], ...] = (
    *batches.CHECKS,
    *generator.CHECKS,
    *losses.CHECKS,
    *network.CHECKS,
    *spectral.CHECKS,
    *training.CHECKS,
)
EVALUATION_CHECKS: tuple[Check[EvalParams], ...] = evaluation.CHECKS
