"""Train Caffe's LeNet on scikit-learn's handwritten digits and write the weights that the project ships.

    python -m models.zoo.train_mnist

In the way of `models.zoo.train_le_net`, on the same digits, a quarter of them held out. The weights are rounded to 16
bits before their accuracy is measured, so that the file takes half the room; they are float32 again once loaded.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from edgecloud.models.zoo import train_le_net
from edgecloud.models.zoo.mnist import Mnist

WEIGHTS = Path(__file__).parent / "mnist.safetensors"


class Rounded(Mnist):
    """Is rounded to 16 bits when it is put to use."""

    def eval(self) -> nn.Module:  # type: ignore[override]
        """The network as it will be loaded from the file."""
        return super().eval().half().float()


def main() -> int:
    """Train, report the held-out accuracy, write the file."""
    model, accuracy, _ = train_le_net.trained(Rounded)
    halves = {name: tensor.to(torch.float16) for name, tensor in model.state_dict().items()}
    save_file(halves, WEIGHTS)
    print(f"held-out accuracy {accuracy:.2%}; {WEIGHTS.name} {WEIGHTS.stat().st_size} bytes")
    return 0 if accuracy >= 0.98 else 1


if __name__ == "__main__":
    sys.exit(main())
