"""SENNA's window networks (Collobert et al., Natural Language Processing (Almost) from Scratch, JMLR 2011, 3.3.1).

A word is judged by a window of five; each word of it is a vector of 50 numbers and some of five for its features, so
that the inputs are 5 x (50 + 5 + 5) = 300 for parts of speech and chunks, and 5 x (50 + 5 + 4 x 5) = 375 for names.
The 300 hidden units are the paper's (table 5), the numbers of tags too (table 3).
"""

from torch import nn

from edgecloud.models.text import Task, width_of

HIDDEN = 300
POS_TAGS = (
    *("CC", "CD", "DT", "EX", "FW", "IN", "JJ", "JJR", "JJS", "LS", "MD", "NN", "NNP", "NNPS", "NNS", "PDT", "POS"),
    *("PRP", "PRP$", "RB", "RBR", "RBS", "RP", "SYM", "TO", "UH", "VB", "VBD", "VBG", "VBN", "VBP", "VBZ", "WDT"),
    *("WP", "WP$", "WRB", "#", "$", "''", "(", ")", ",", ".", ":", "``"),
)
"""The Penn Treebank's 45."""
NER_TAGS = ("O", *(f"{place}-{what}" for what in ("LOC", "MISC", "ORG", "PER") for place in "BIES"))
"""CoNLL 2003's four kinds of names: begin, inside, end, single, and what is no name."""
CHUNK_TAGS = 42
"""Of CoNLL 2000's eleven kinds of phrases. Which of the 45 possible ones these are, the paper does not say."""
TAGS: dict[Task, int] = {"pos": len(POS_TAGS), "ner": len(NER_TAGS), "chk": CHUNK_TAGS}


class Senna(nn.Sequential):
    """Takes (B, words, width_of(task)), one window for each word, and returns the logits of its tags."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width_of(task), HIDDEN)
        self.htanh = nn.Hardtanh()
        self.fc3 = nn.Linear(HIDDEN, TAGS[task])


def parameters_of(task: Task) -> int:
    """How many numbers a network has."""
    return (width_of(task) + 1) * HIDDEN + (HIDDEN + 1) * TAGS[task]
