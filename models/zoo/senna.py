"""SENNA's window networks (Collobert et al., Natural Language Processing (Almost) from Scratch, JMLR 2011, 3.3.1).

A word is judged by a window of five; each word of it is a vector of 50 numbers and some of five for its features, so
that the inputs are 5 x (50 + 5 + 5) = 300 for parts of speech and chunks, and 5 x (50 + 5 + 4 x 5) = 375 for names.
The 300 hidden units are the paper's (table 5), the numbers of tags too (table 3).
"""

from torch import nn

from edgecloud.models.text import TAGS, Task, width_of

HIDDEN = 300


class Senna(nn.Sequential):
    """Takes (B, words, width_of(task)), one window for each word, and returns the logits of its tags."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width_of(task), HIDDEN)
        self.htanh = nn.Hardtanh()
        self.fc3 = nn.Linear(HIDDEN, TAGS[task])
