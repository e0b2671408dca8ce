"""A matrix of distances as ranking wants them, for small problems."""

from torch import Tensor


class MatrixDistances:
    """A (Q, G) matrix of distances that is there already, for small problems."""

    def __init__(self, matrix: Tensor) -> None:
        self.shape = (len(matrix), matrix.shape[1])
        self.device = matrix.device
        self._matrix = matrix

    def rows(self, start: int, stop: int) -> Tensor:
        """(stop - start, G) float32, as `Distances` says."""
        return self._matrix[start:stop].float().clone()
