"""DeepFace for aligned 152x152 faces (Taigman et al., CVPR 2014, section 3.2 and figure 2)."""

import torch
from torch import nn

from edgecloud.models.zoo.local import LocallyConnected2d

CLASSES = 4030
"""Persons of the Social Face Classification data set."""


class DeepFace(nn.Module):
    """Takes (B, 3, 152, 152), returns logits (B, 4030). 118,923,774 parameters, more than half of them in L4."""

    def __init__(self) -> None:
        super().__init__()
        self.C1 = nn.Conv2d(3, 32, kernel_size=11)
        self.M2 = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)  # 71x71, as in the paper and in Caffe
        self.C3 = nn.Conv2d(32, 16, kernel_size=9)
        self.L4 = LocallyConnected2d((16, 63, 63), 16, kernel_size=9)
        self.L5 = LocallyConnected2d((16, 55, 55), 16, kernel_size=7, stride=2)
        self.L6 = LocallyConnected2d((16, 25, 25), 16, kernel_size=5)
        self.flatten = nn.Flatten()
        self.F7 = nn.Linear(16 * 21 * 21, 4096)
        self.F8 = nn.Linear(4096, CLASSES)
        # after every layer with weights but the last
        self.relu1, self.relu3, self.relu4, self.relu5, self.relu6, self.relu7 = (nn.ReLU() for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the persons."""
        x = self.M2(self.relu1(self.C1(x)))
        x = self.relu3(self.C3(x))
        x = self.relu6(self.L6(self.relu5(self.L5(self.relu4(self.L4(x))))))
        logits: torch.Tensor = self.F8(self.relu7(self.F7(self.flatten(x))))
        return logits
