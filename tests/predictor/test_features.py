"""What regressions see of a layer, and how they are tried on networks that they have not seen."""

import random
from dataclasses import replace

import numpy as np
import pytest

from edgecloud.predictor.dataset import Row
from edgecloud.predictor.features import FEATURES, Context, in_context, table
from edgecloud.predictor.profile import Profile
from edgecloud.predictor.regressors import AS_PUBLISHED, QUICK_ROWS, quick_errors
from edgecloud.predictor.train import TEST_SHARE, _part, fit_kind
from tests.engine.test_executor import KEY
from tests.models.test_graph import random_graph
from tests.predictor.test_dataset import rows


def test_a_layer_in_its_place_knows_what_was_moved_since_its_oldest_input_and_what_ran_before() -> None:
    rng = random.Random(1)
    for _ in range(40):
        graph = random_graph(rng, rng.randrange(2, 10))
        specs = [replace(row.layer.spec, kind=rng.choice(["conv", "linear"])) for row in rows(len(graph.layers) - 1)]
        rng.shuffle(specs)
        found = in_context(specs, [layer.inputs for layer in graph.layers[1:]])
        assert [each.spec for each in found] == specs
        for number, each in enumerate(found, start=1):
            between = [specs[n - 1] for n in range(min(graph.layers[number].inputs) + 1, number)]
            assert each.context.reuse_bytes == sum(spec.weight_bytes + spec.out_bytes for spec in between)
            assert each.context.pass_macs == sum(spec.macs for spec in specs)
            assert each.context.peak_bytes == max(spec.out_bytes for spec in specs)
            if number == 1:
                assert each.context.before_kind == Context().before_kind
                assert each.context.before_bytes == 0
            else:
                before = specs[number - 2]
                assert each.context.before_kind == before.kind
                assert each.context.before_bytes == before.in_bytes + before.out_bytes + before.weight_bytes
                assert each.context.before_kernel == before.kernel[0] * before.kernel[1]


def test_a_table_has_one_row_for_each_layer_and_a_variant_that_nobody_knows_is_none_of_them() -> None:
    known = [row.layer for row in rows(7)]
    assert table(known).shape == (7, len(FEATURES))
    assert table([]).shape == (0, len(FEATURES))
    for each in known:
        np.testing.assert_array_equal(table([each]), table(known)[[known.index(each)]])
    strange = replace(known[0], spec=replace(known[0].spec, variant="of next year"))
    variants = [column for column, name in enumerate(FEATURES) if name.startswith("is_") and name != "is_in_place"]
    assert table([replace(known[0], spec=replace(known[0].spec, variant="relu"))])[0, variants].sum() == 1
    assert table([strange])[0, variants].sum() == 0


# --- tried on what was not seen


def test_quick_errors_are_small_where_times_follow_work_and_large_where_only_the_network_tells_them() -> None:
    made = rows(2 * QUICK_ROWS)
    features, names = table([row.layer for row in made]), [row.network for row in made]
    found = quick_errors(features, [row.seconds for row in made], names)
    assert found is not None
    assert np.median(found) < 0.1
    chance = np.random.default_rng(0).lognormal(0, 3, len(made))
    copies = np.concatenate([features, features])
    lost = quick_errors(copies, [*chance, *chance], [*names, *names])
    assert lost is not None
    assert np.median(lost) > 0.5, "a copy of the row in the same network was not seen"


def test_too_few_rows_or_a_single_network_say_nothing_about_others() -> None:
    made = rows(QUICK_ROWS)
    features, seconds = table([row.layer for row in made]), [row.seconds for row in made]
    names = [row.network for row in made]
    assert quick_errors(features, seconds, names) is not None
    assert quick_errors(features[1:], seconds[1:], names[1:]) is None
    assert quick_errors(features, seconds, ["n"] * len(made)) is None


@pytest.mark.parametrize("networks", [1, 2, 3, 4])
def test_few_networks_are_enough_to_fit_and_no_row_is_tried_on_itself(networks: int) -> None:
    """Where they cannot be set aside whole, every fifth row is; whatever sides their names fall on."""
    chance = np.random.default_rng(1).lognormal(0, 3, 60)
    sides = set()
    for salt in range(12):
        names = [f"{salt}-{n % networks}" for n in range(60)]
        sides.add(tuple(sorted(_part(name) % TEST_SHARE == 0 for name in set(names))))
        made = [Row(row.layer, name, (float(s),)) for row, name, s in zip(rows(60), names, chance, strict=True)]
        found = fit_kind("conv", made, AS_PUBLISHED)
        assert 0 < found.score.rows == len(found.predicted) < 60
        assert set(found.candidates) == set(AS_PUBLISHED)
        assert all(score.rows == 60 - found.score.rows for score in found.candidates.values())
        assert found.candidates[found.chosen].within_20 < 0.5, "chance cannot be foretold"
    assert len(sides) > 1


# --- what was measured of one network


def test_the_start_of_a_tail_is_what_it_takes_beyond_its_layers_and_in_between_a_straight_line() -> None:
    passes = ((0.0, 1.0, 2.0, 3.0, 4.0), (0.0, 1.0, 2.0, 3.0, 4.0))
    found = Profile(KEY, passes, {2: (8.0, 9.0, 8.5), 3: (3.0,)})
    assert found.seconds == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert found.start_s == (0.0, 0.75, 1.5, 0.0, 0.0), "less than the layers is nothing, not less than nothing"
    assert Profile(KEY, passes, {}).start_s == (0.0,) * 5
    whole = Profile(KEY, passes, {4: (1.0,)})
    assert whole.start_s == (0.0, 0.25, 0.5, 0.75, 1.0)
