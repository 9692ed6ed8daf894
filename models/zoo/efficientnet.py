"""EfficientNet-Lite0: EfficientNet-B0 (Tan and Le, ICML 2019) as TensorFlow's authors made it plain for weak devices.

No squeeze-and-excitation, ReLU6 in place of swish, and a stem and a head of fixed width. Layers with a stride pad as
TensorFlow does, more behind than before, since that is what the published weights were trained with. Modules are named
as in those weights, without the underscores that their names begin with.
"""

import re

import torch
from torch import nn

STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride of the first block, channels, blocks: table 1 of the paper."""
STEM, HEAD, CLASSES = 32, 1280, 1000
EPSILON = 1e-3
_PUBLISHED = re.compile(r"(^|\.)_(?=(conv|bn|blocks|expand|depthwise|project|fc))")


class Block(nn.Module):
    """An inverted residual block (Sandler et al., MobileNetV2, CVPR 2018)."""

    def __init__(self, channels: int, expansion: int, kernel: int, stride: int, into: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.is_residual = stride == 1 and channels == into
        self.expand_conv = nn.Conv2d(channels, hidden, 1, bias=False) if expansion > 1 else None
        self.bn0 = _norm(hidden) if expansion > 1 else None
        self.relu0 = nn.ReLU6() if expansion > 1 else None
        self.pad = _pad(kernel) if stride > 1 else None
        padding = 0 if stride > 1 else kernel // 2
        self.depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, padding, groups=hidden, bias=False)
        self.bn1, self.relu1 = _norm(hidden), nn.ReLU6()
        self.project_conv = nn.Conv2d(hidden, into, 1, bias=False)
        self.bn2 = _norm(into)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to (B, into, H / stride, W / stride)."""
        y = x
        if self.expand_conv is not None and self.bn0 is not None and self.relu0 is not None:
            y = self.relu0(self.bn0(self.expand_conv(y)))
        if self.pad is not None:
            y = self.pad(y)
        y = self.relu1(self.bn1(self.depthwise_conv(y)))
        out: torch.Tensor = self.bn2(self.project_conv(y))
        return x + out if self.is_residual else out


class EfficientNetLite0(nn.Module):
    """Takes (B, 3, 224, 224), returns logits (B, 1000). 4,652,008 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = _pad(3)
        self.conv_stem = nn.Conv2d(3, STEM, 3, 2, bias=False)
        self.bn0, self.relu0 = _norm(STEM), nn.ReLU6()
        self.blocks, channels = nn.Sequential(), STEM
        for expansion, kernel, stride, into, count in STAGES:
            for number in range(count):
                self.blocks.append(Block(channels, expansion, kernel, stride if number == 0 else 1, into))
                channels = into
        self.conv_head = nn.Conv2d(channels, HEAD, 1, bias=False)
        self.bn1, self.relu1 = _norm(HEAD), nn.ReLU6()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(HEAD, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of ImageNet's classes."""
        x = self.relu0(self.bn0(self.conv_stem(self.pad(x))))
        x = self.relu1(self.bn1(self.conv_head(self.blocks(x))))
        logits: torch.Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)


def _pad(kernel: int) -> nn.ZeroPad2d:
    """For a stride of 2 over an even number of pixels."""
    before = (kernel - 2) // 2
    return nn.ZeroPad2d((before, kernel - 2 - before, before, kernel - 2 - before))


def own_name(published: str) -> str:
    """What a tensor of the published weights is called here."""
    return _PUBLISHED.sub(r"\1", published)
