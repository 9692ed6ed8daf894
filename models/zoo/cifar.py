"""AlexNet and VGG16 for 32x32 images, as in wyc941012/Edge-Intelligence's cost-capped system.

That system counts 13 and 34 layers and runs them without activations; here they have the ReLUs of the papers that they
are named after (Krizhevsky et al., NIPS 2012; Simonyan and Zisserman, ICLR 2015).
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: pool


class CifarAlexNet(nn.Sequential):
    """Takes (B, 3, 32, 32), returns logits (B, 10). 749,194 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_normed(nn.Conv2d(3, 64, kernel_size=5, padding=1)),
            *_normed(nn.Conv2d(64, 64, kernel_size=5, padding=1)),
            *_rectified(nn.Conv2d(64, 128, kernel_size=3, padding=1)),
            *_rectified(nn.Conv2d(128, 128, kernel_size=3, padding=1)),
            *_rectified(nn.Conv2d(128, 128, kernel_size=3, padding=1)),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.flatten = nn.Flatten()
        self.classifier = _classifier((512, 384, 192, 10))


class CifarVgg16(nn.Sequential):
    """Takes (B, 3, 32, 32), returns logits (B, 10). 33,646,666 parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _VGG16:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.BatchNorm2d(width), _relu()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.flatten = nn.Flatten()
        self.classifier = _classifier((512, 4096, 4096, 10))


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def _rectified(layer: nn.Module) -> list[nn.Module]:
    return [layer, _relu()]


def _normed(conv: nn.Module) -> list[nn.Module]:
    """With AlexNet's normalisation over two neighbouring channels."""
    norm = nn.LocalResponseNorm(2, alpha=1e-4, beta=0.75, k=2.0)
    return [*_rectified(conv), norm, nn.MaxPool2d(kernel_size=3, stride=2)]


def _classifier(widths: Sequence[int]) -> nn.Sequential:
    layers = [layer for inputs, outputs in pairwise(widths) for layer in _rectified(nn.Linear(inputs, outputs))]
    return nn.Sequential(*layers[:-1])  # no activation after the last one
