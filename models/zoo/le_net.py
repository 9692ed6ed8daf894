"""LeNet-5 for 28x28 grey pictures of digits (LeCun et al., Proc. IEEE 1998, section II.B; padding gives it 32x32)."""

import torch
from torch import nn


class LeNet(nn.Module):
    """Takes (B, 1, 28, 28), returns logits (B, 10). 61,706 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5, padding=2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.Tanh(),
            nn.AvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.Tanh(),
            nn.Linear(120, 84),
            nn.Tanh(),
            nn.Linear(84, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the ten digits."""
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits
