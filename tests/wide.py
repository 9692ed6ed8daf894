"""A small network with two outputs, from branches, as a user's own module: in plain torch."""

import torch
from torch import nn


class Wide(nn.Module):
    """Two outputs, from branches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem, self.left, self.right = nn.Linear(16, 32), nn.Linear(32, 8), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.stem(x).relu()
        return self.left(hidden), self.right(hidden).sigmoid()


WIDE, X = Wide().eval(), torch.linspace(-1, 1, 16)[None]
