"""The acoustic network of a hybrid speech recogniser, the ASR network of Neurosurgeon's authors.

Seven fully connected layers with sigmoids in between, as Kaldi's nnet1 recipes train them (Vesely et al., Interspeech
2013) and as the authors' Caffe definition has them (claritylab/djinn, asr.prototxt).
"""

from itertools import pairwise

from torch import nn

WIDTHS = (440, *(2048,) * 6, 1706)
"""11 spliced frames of 40 log-mel energies, six hidden layers, and the senones: states of triphones."""


class Kaldi(nn.Sequential):
    """Takes (B, frames, 440), returns the logits of the senones of each frame, (B, frames, 1706). 25,380,522
    parameters."""

    def __init__(self) -> None:
        super().__init__()
        for number, (inputs, outputs) in enumerate(pairwise(WIDTHS), 1):
            self.add_module(f"fc{number}", nn.Linear(inputs, outputs))
            if outputs != WIDTHS[-1]:
                self.add_module(f"sig{number}", nn.Sigmoid())
