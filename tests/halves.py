"""Both halves of a cut network in one process: what the two programs have to give together."""

from collections.abc import Collection

import torch

from edgecloud.models.split import Segment


def run_split(head: Segment, tail: Segment, x: torch.Tensor, outputs: Collection[int]) -> tuple[torch.Tensor, ...]:
    """Run the head on x, shape (1, ...), and the tail on what crosses; returns the tensors of `outputs`."""
    with torch.inference_mode():
        values = dict(zip(head.outputs, head.module(x), strict=True))
        if tail.outputs:
            values |= zip(tail.outputs, tail.module(*(values[number] for number in tail.inputs)), strict=True)
    return tuple(values[number] for number in outputs)
