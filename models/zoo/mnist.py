"""Caffe's LeNet for 28x28 digits, the DIG network of Neurosurgeon's authors (Jia et al., Caffe, examples/mnist)."""

import torch
from torch import nn


class Mnist(nn.Module):
    """Takes (B, 1, 28, 28), returns logits (B, 10). 431,080 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, kernel_size=5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(20, 50, kernel_size=5)
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.ip1 = nn.Linear(800, 500)
        self.relu1 = nn.ReLU()
        self.ip2 = nn.Linear(500, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the ten digits."""
        x = self.pool2(self.conv2(self.pool1(self.conv1(x))))
        logits: torch.Tensor = self.ip2(self.relu1(self.ip1(self.flatten(x))))
        return logits
