"""Random networks for the survey: within their bounds, whole, and the same for the same seed. No torch."""

import math
from random import Random

from edgecloud.predictor.blocks import BLOCKS, RARE_BLOCKS
from edgecloud.predictor.design import FEWEST_STEPS, draw
from edgecloud.predictor.draft import Bounds, Design

TIGHT = Bounds(macs=10**6, weight_bytes=64 << 10, steps=12)
USUAL = Bounds(macs=10**8, weight_bytes=8 << 20, steps=40)
RARE = Bounds(macs=10**9, weight_bytes=64 << 20, steps=20, has_rare=True)


def drawn(bounds: Bounds, count: int) -> list[Design]:
    """That many designs, each of its own seed."""
    return [draw(Random(seed), bounds) for seed in range(count)]


def test_designs_keep_to_their_bounds_and_read_only_what_is_there() -> None:
    for bounds in (TIGHT, USUAL, RARE):
        for design in drawn(bounds, 400):
            assert len(design.steps) >= FEWEST_STEPS
            assert bounds is TIGHT or design.weight_bytes <= bounds.weight_bytes
            for number, step in enumerate(design.steps):
                assert step.sources
                assert all(0 <= source <= number for source in step.sources)


def test_the_same_seed_draws_the_same_network() -> None:
    assert drawn(USUAL, 20) == drawn(USUAL, 20)
    assert len(set(drawn(USUAL, 20))) > 15


def test_rare_blocks_come_only_where_they_are_wanted() -> None:
    rare = {"LocallyConnected2d", "LocalResponseNorm"}
    assert not rare & {step.op for design in drawn(USUAL, 200) for step in design.steps}
    assert rare <= {step.op for design in drawn(RARE, 100) for step in design.steps}


def test_every_block_alone_builds_something_or_gives_way() -> None:
    for name in (*BLOCKS, *RARE_BLOCKS):
        only = {other: 0.0 for other in (*BLOCKS, *RARE_BLOCKS) if other != name}
        for macs, weight_bytes in ((10**6, 32 << 10), (3 * 10**7, 1 << 20), (10**9, 64 << 20)):
            for steps in (8, 40):
                bounds = Bounds(macs, weight_bytes, steps, weights=only, has_rare=True)
                for seed in range(40):
                    assert draw(Random(seed), bounds).steps


def test_layers_as_large_as_those_of_real_networks_are_drawn() -> None:
    """DeepFace's L4 (251 MB of weights), Kaldi's hidden layers (2048 x 2048 for 100 frames), pictures of 32x32."""
    designs = drawn(Bounds(macs=4 * 10**9, weight_bytes=450 << 20, steps=40, has_rare=True), 600)
    local_bytes, frames = [], set()
    for design in designs:
        for step in design.steps:
            sizes = dict(step.settings)
            if step.op == "LocallyConnected2d":
                c, h, w = sizes["in_shape"]
                places = math.prod((side - sizes["kernel_size"]) // sizes["stride"] + 1 for side in (h, w))
                local_bytes.append(4 * places * sizes["out_channels"] * c * sizes["kernel_size"] ** 2)
            if step.op == "Linear" and len(design.input_shape) == 3:
                wide = min(sizes["in_features"], sizes["out_features"]) >= 2000
                frames.add((wide, design.input_shape[1] >= 50))
    assert sum(found > 200e6 for found in local_bytes) >= 3
    assert sum(found < 20e6 for found in local_bytes) >= 20
    assert (True, True) in frames
    assert any(design.input_shape == (1, 3, 32, 32) for design in designs)


def test_a_start_in_which_nothing_fits_is_left() -> None:
    assert draw(Random(1), TIGHT, start=(1, 256, 800)).input_shape != (1, 256, 800)
