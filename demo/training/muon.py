"""Muon: momentum whose update is orthogonalised, for weights that are matrices; AdamW for the rest.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, with the update scaled to AdamW's size as in Liu et al.
2025 (arXiv 2502.16982), so that one learning rate serves both. Convolutions count as matrices of [out, in x kernel].
torch's own Muon takes two-dimensional weights only, and half of this model is convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Return the nearest (semi-)orthogonal matrix, roughly: singular values come out between about 0.7 and 1.2."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    # bfloat16 is enough for it, and ten times slower on processors without instructions for it.
    working = matrix.bfloat16() if matrix.is_cuda else matrix
    x: Tensor = working.T if tall else working
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum with decoupled weight decay; every parameter has two dimensions or more."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"])
                matrix = orthogonalise(update.reshape(update.shape[0], -1))
                scale = 0.2 * max(matrix.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(matrix.reshape(update.shape), alpha=-group["lr"] * scale)


def set_learning_rate(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    """Give every parameter group that learning rate, times the share of it that the group was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("share", 1.0)


def muon_and_adamw(
    model: torch.nn.Module, lr: float, weight_decay: float = 0.01, vector_share: float = 1.0
) -> list[torch.optim.Optimizer]:
    """Return Muon for the model's matrices, and AdamW, at a share of the rate, for vectors and embeddings."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for parameter in model.parameters():
        is_matrix = (
            parameter.ndim >= 2
            and min(parameter.shape[0], parameter[0].numel()) > 1
            and id(parameter) not in embeddings
        )
        (matrices if is_matrix else rest).append(parameter)
    return [
        Muon(matrices, lr=lr, weight_decay=weight_decay),
        torch.optim.AdamW([{"params": rest, "share": vector_share}], lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
