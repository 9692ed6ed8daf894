"""Pictures that keep coming, through the library."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import edgecloud as ec
from tests.conftest import ROOT


def test_the_newest_picture_is_answered_and_the_answer_says_which(tmp_path: Path) -> None:
    net, coming = ec.load("le_net"), tmp_path / "coming"
    coming.mkdir()
    digit = Image.open(ROOT / "models" / "zoo" / "digit.png")
    with ec.Edge(net, cloud=None, cache_dir=tmp_path) as edge, ec.Frames(coming, most=2) as frames:
        for number, name in enumerate(("c.png", "a.png", "b.png")):
            digit.save(coming / name)
            os.utime(coming / name, (1e9 + number, 1e9 + number))
        answers = edge.map(frames)
        first = next(answers)
        assert first.frame is not None
        assert (first.frame.number, first.frame.name, frames.dropped) == (3, "b.png", 2)
        assert np.allclose(first.outputs[0], net(net.read(ROOT / "models" / "zoo" / "digit.png"))[0], atol=1e-5)
        digit.save(coming / "d.png")
        second = next(answers)
        assert second.frame is not None
        assert second.frame.name == "d.png"
        assert 0 < second.frame.age_s < first.frame.age_s
        assert list(answers) == []


def test_what_gives_no_pictures_or_takes_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ec.EdgeCloudError, match=r"missing\.mp4|OpenCV"):
        ec.Frames(tmp_path / "missing.mp4")
    x = np.zeros((1, 3), np.float32)
    with (
        ec.Edge(nn.Linear(3, 2), x, cloud=None, cache_dir=tmp_path) as edge,
        ec.Frames(tmp_path) as frames,
        pytest.raises(ec.UsageError, match="require a network that takes images"),
    ):
        next(edge.map(frames))
