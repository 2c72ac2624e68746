"""Products that take no more memory than a training step: a micro-batch in pieces, by double backward, nothing kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from landscape.curvature.costs import Cost
from landscape.curvature.products import Form, Product
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.parameters import ParameterLayout
from landscape.objective.sources import length


class LeanProduct(Product):
    """A micro-batch's product as the weighted sum of its pieces' products, summed in float64.

    The graph of a product by double backward holds two to three times what the forward pass of a training step keeps,
    since the gradient's own graph comes on top. A micro-batch in as many pieces fits where the training step fits; it
    costs one more gradient, as the pieces' graphs are made again for every product.

    Args:
        form: kind of curvature.
        batch: the micro-batch.
        layout: of the parameters.
        pieces: how many; no more than it has samples are made.
    """

    def __init__(self, form: Form, batch: BatchLoss, layout: ParameterLayout, pieces: int) -> None:
        self._form, self._batch, self._layout, self._pieces = form, batch, layout, pieces

    def __call__(self, column: Tensor, *, keep: bool = True) -> Tensor:
        return self.of_rows(column[None], keep=keep)[:, 0]

    def of_rows(self, rows: Tensor, *, keep: bool = True) -> Tensor:
        total = torch.zeros(rows.shape[1], len(rows), dtype=torch.float64, device=rows.device)
        for piece in self._batch.pieces(self._pieces):
            product = self._form.linearise(piece, self._layout, self._form.extras(piece))
            for i, row in enumerate(rows):
                total[:, i].add_(product(row, keep=i < len(rows) - 1), alpha=piece.share)
        return total


def pieces_needed(cost: Cost, batch: BatchLoss) -> int:
    """As many as make a piece's graph fit into what a training step keeps of the whole micro-batch's forward pass."""
    return min(length(batch.labels), max(1, math.ceil(cost.graph_bytes / max(1, cost.forward_bytes))))
