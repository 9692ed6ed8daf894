"""Locally connected layers: convolutions with separate weights for each position of the output.

Taigman et al., DeepFace, CVPR 2014, section 3.2; Caffe's LOCAL layer.
"""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional


class LocallyConnected2d(nn.Module):
    """Takes (B, C, H, W), returns (B, filters, H', W') as an unpadded convolution of that kernel and stride does.

    `weight` has a row for each number of the output, place by place, shape (H' * W' * filters, C * kernel * kernel):
    so its second axis is what one number is summed over, which is what seeded weights are scaled by.
    """

    is_one_layer: ClassVar[bool] = True  # for models.trace: never cut inside

    def __init__(self, in_shape: tuple[int, int, int], out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        channels, *sides = in_shape
        self.out_shape = (out_channels, *((side - kernel_size) // stride + 1 for side in sides))
        self.kernel_size, self.stride = kernel_size, stride
        rows = self.out_shape[0] * self.out_shape[1] * self.out_shape[2]
        self.weight = nn.Parameter(torch.empty(rows, channels * kernel_size**2))
        self.bias = nn.Parameter(torch.empty(self.out_shape))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        nn.init.uniform_(self.bias, -0.01, 0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """For each place of the output its own filters times what lies under them."""
        filters, height, width = self.out_shape
        patches = functional.unfold(x, self.kernel_size, stride=self.stride)  # (B, C * k * k, places)
        banks = self.weight.view(height * width, filters, -1)
        summed = torch.bmm(banks, patches.permute(2, 1, 0))  # (places, filters, B)
        return summed.permute(2, 1, 0).reshape(-1, filters, height, width).contiguous() + self.bias

    def extra_repr(self) -> str:
        """What is built."""
        return f"{self.out_shape}, kernel_size={self.kernel_size}, stride={self.stride}"
