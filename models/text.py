"""Converts a sentence to the word-vector windows of SENNA's networks. Pure.

**The vectors are not SENNA's trained ones.** They are drawn from a seed that the word itself gives (SHA-256, then
numpy's PCG64, whose stream is specified), so that every word has one, the same on every machine, and no table has to
be shipped; words that mean alike do not lie together. The shapes, and with them the times and the bytes, are SENNA's.
"""

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgecloud.utils.errors import UsageError

Task = Literal["pos", "ner", "chk"]
Vectors = NDArray[np.float32]
WORDS = 28
"""Windows in one inference, as in DjiNN's benchmark (Hauswald et al., ISCA 2015); shorter sentences are padded."""
WINDOW, WORD_NUMBERS, FEATURE_NUMBERS = 5, 50, 5
MAX_CHARACTERS = 2_000
PADDING = ""  # a word before the beginning and behind the end
SAMPLE = "Ada Lovelace wrote the first program for a machine of Charles Babbage in London ."

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
"""How many tags each task has: table 3 of SENNA's paper."""

_NAMES = {
    "LOC": "london paris berlin rome madrid vienna tokyo beijing delhi cairo england france germany",
    "MISC": "english french german american chinese indian olympic internet",
    "ORG": "university bank parliament nasa unesco reuters times",
    "PER": "ada charles alan grace john mary lovelace babbage turing hopper smith",
}
GAZETTEERS = {kind: frozenset(names.split()) for kind, names in _NAMES.items()}
"""What SENNA looks up in lists of thousands of names, here a few of each kind."""
_CLOSED_CLASSES = {
    "DT": "the a an this that these those", "IN": "in on at of for with by from to as into", "CC": "and or but nor",
    "PRP": "i you he she it we they me him her us them", "MD": "can could may might must shall should will would",
    "VB": "be is are was were been am has have had do does did", "PUNCT": ". , : ; ! ? ( ) ' \"",
}  # fmt: skip
_TAG_OF_WORD = {word: tag for tag, words in _CLOSED_CLASSES.items() for word in words.split()}
_TAG_OF_ENDING = {"ing": "VBG", "ed": "VBD", "ly": "RB", "s": "NNS"}


def words_of(sentence: str) -> tuple[str, ...]:
    """The words and marks of a sentence. Raises UsageError for none, and for more than one inference takes."""
    if len(sentence) > MAX_CHARACTERS:
        raise UsageError(f"the text has {len(sentence)} characters: the limit is {MAX_CHARACTERS}")
    words = tuple(re.findall(r"\w+(?:[-'’.]\w+)*|[^\w\s]", sentence))
    if not words:
        raise UsageError("the text contains no word")
    if len(words) > WORDS:
        raise UsageError(f"the text has {len(words)} words and punctuation marks: the limit is {WORDS}")
    return words


def width_of(task: Task) -> int:
    """Numbers of one window."""
    return WINDOW * (WORD_NUMBERS + FEATURE_NUMBERS * len(FEATURES[task]))


def windows(task: Task, sentence: str) -> Vectors:
    """One window for each word, shape (1, 28, width_of(task)), float32; behind the last word those of padding.

    Raises UsageError as `words_of` does.
    """
    words, around = words_of(sentence), (PADDING,) * (WINDOW // 2)
    padded = (*around, *words, *(PADDING,) * (WORDS - len(words)), *around)
    vectors = [_described(task, word) for word in padded]
    return np.stack([np.concatenate(vectors[first : first + WINDOW]) for first in range(WORDS)])[None]


def _described(task: Task, word: str) -> Vectors:
    """The vector of a word, and those of its features."""
    plain = re.sub(r"\d", "0", word.lower())  # as SENNA does: all numbers of one length are one word
    features = [_vector(feature(word), FEATURE_NUMBERS) for feature in FEATURES[task]]
    return np.concatenate([_vector(f"word {plain}", WORD_NUMBERS), *features])


@lru_cache(4096)
def _vector(name: str, count: int) -> Vectors:
    """Numbers of mean 0 and variance 1 that depend on the name alone."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    drawn = np.random.Generator(np.random.PCG64(words.tolist())).random(count, dtype=np.float32)
    return (drawn * np.float32(2) - np.float32(1)) * np.float32(3**0.5)


# --- features: each says the name of the vector that is added


def _caps(word: str) -> str:
    """How a word is written."""
    if word == PADDING:
        return "caps padding"
    kinds = (("all", word.isupper()), ("first", word[:1].isupper()), ("some", word != word.lower()))
    return f"caps {next((name for name, holds in kinds if holds), 'none')}"


def _ending(word: str) -> str:
    return f"ending {word[-2:].lower()}"


def _is_listed(kind: str, word: str) -> str:
    return f"{kind} {word.lower() in GAZETTEERS[kind]}"


def _part_of_speech(word: str) -> str:
    """By rules of thumb, where SENNA asks its tagger."""
    lower = word.lower()
    endings = (tag for ending, tag in _TAG_OF_ENDING.items() if lower.endswith(ending))
    part = _TAG_OF_WORD.get(lower) or next(endings, "NNP" if word[:1].isupper() else "NN")
    return f"tag {part if word else 'padding'}"


FEATURES: dict[Task, tuple[Callable[[str], str], ...]] = {
    "pos": (_caps, _ending),
    "chk": (_caps, _part_of_speech),
    "ner": (_caps, *(partial(_is_listed, kind) for kind in GAZETTEERS)),
}
