"""Train LeNet-5 on scikit-learn's handwritten digits and write the weights and the sample that the project ships.

    python -m models.zoo.train_le_net

The 1,797 digits (8x8, from the UCI test set) are enlarged to 28x28 by the same function that reads a user's picture,
so that what is trained is what is served. A quarter is held out and never trained on; its accuracy is printed. Takes
about a minute.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from edgecloud.models.inputs import digit_array
from edgecloud.models.zoo.digits import digit_pictures, split_digits
from edgecloud.models.zoo.le_net import LeNet

HERE = Path(__file__).parent
WEIGHTS = HERE / "le_net.safetensors"
SAMPLE = HERE / "digit.png"
EPOCHS = 60
BATCH = 64


def shifted(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A batch (B, 1, 28, 28) moved by up to two pixels: digits are not always in the middle."""
    rows, columns = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return torch.roll(batch, (rows, columns), dims=(2, 3))


def train(make: Callable[[], nn.Module], pictures: torch.Tensor, classes: torch.Tensor) -> nn.Module:
    """Fit a network to (B, 1, 28, 28) pictures and their B classes, reproducibly."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(pictures), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            loss = nn.functional.cross_entropy(model(shifted(pictures[batch], generator)), classes[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return model.eval()


def trained(make: Callable[[], nn.Module]) -> tuple[nn.Module, float, int]:
    """A network that was fitted to the digits, its held-out accuracy, and the number of a digit that it gets right."""
    pictures, labels = digit_pictures()
    classes = torch.tensor(labels)
    tensors = torch.from_numpy(np.concatenate([digit_array(picture) for picture in pictures]))
    train_on, held_out = split_digits()
    model = train(make, tensors[train_on], classes[train_on])
    with torch.inference_mode():
        right = model(tensors[held_out]).argmax(1) == classes[held_out]
    return model, right.float().mean().item(), held_out[int(right.nonzero()[0])]


def main() -> int:
    """Train, report the held-out accuracy, write the files."""
    model, accuracy, good = trained(LeNet)
    save_file(model.state_dict(), WEIGHTS)
    digit_pictures()[0][good].save(SAMPLE)
    print(f"held-out accuracy {accuracy:.2%}; {WEIGHTS.name} {WEIGHTS.stat().st_size} bytes")
    return 0 if accuracy >= 0.98 else 1


if __name__ == "__main__":
    sys.exit(main())
