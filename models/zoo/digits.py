"""scikit-learn's handwritten digits, which le_net is trained on, and those of them that it never saw."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def digit_pictures() -> tuple[list[Image.Image], list[int]]:
    """The digits as 8x8 grey pictures, white ink on black, and their classes."""
    digits = load_digits()
    pictures = [Image.fromarray(np.uint8(np.clip(image * 16, 0, 255))) for image in digits.images]
    return pictures, digits.target.tolist()


def split_digits() -> tuple[list[int], list[int]]:
    """Indices to train on and to hold out, the same at every call."""
    classes = load_digits().target
    train, held_out = train_test_split(np.arange(len(classes)), test_size=0.25, random_state=0, stratify=classes)
    return train.tolist(), held_out.tolist()
