"""Which pixels are seen: the laws of sizes and places, against their definitions."""

import numpy as np
import pytest
from scipy.stats import chisquare

from datamodules import GridPixels, HalfImage, RandomPixels, SuperResolution
from datamodules.pixels import subset
from npexp.errors import ConfigError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_sizes_follow_the_published_law(rng):
    """With a budget of P = 12: context uniform on 3 to 8, targets uniform on 3 to 11 less the context."""
    law, counts = RandomPixels((3, 8), (3, 8), 11), np.zeros((9, 9))
    for _ in range(4000):
        context, target, factor = law.draw(rng, 1, 6, 5)
        counts[context.shape[1], target.shape[1]] += 1
        assert factor == 1
    possible = np.array([[3 <= t <= 11 - c and c >= 3 for t in range(9)] for c in range(9)])
    assert not counts[~possible].any() and (counts[possible] > 0).all()
    assert chisquare(counts.sum(1)[3:]).pvalue > 1e-3
    assert all(chisquare(row[may]).pvalue > 1e-3 for row, may in zip(counts[3:8], possible[3:8], strict=True))


def test_defaults_are_the_published_budget_of_200(rng):
    sizes = np.array([[v.shape[1] for v in RandomPixels().draw(rng, 1, 32, 32)[:2]] for _ in range(800)])
    assert sizes.min() == 3 and sizes[:, 0].max() == 196 and sizes.sum(1).max() == 199


@pytest.mark.parametrize(("most", "count"), [(30, 12), (30, 30), (1100, 550)])  # shuffled whole, and drawn from
def test_subsets_are_uniform_and_in_random_order(rng, most, count):
    drawn = subset(rng, 2000, most, count)
    assert all(len(set(row)) == count for row in drawn)
    if count < most:
        assert chisquare(np.bincount(drawn.ravel(), minlength=most)).pvalue > 1e-3
    assert chisquare(np.bincount(drawn[:, 0] * 10 // most)).pvalue > 1e-3  # the first place of each
    assert chisquare(np.bincount(drawn[:, -1] * 10 // most)).pvalue > 1e-3  # and the last


@pytest.mark.parametrize("law", [RandomPixels((0, 5), None, None), RandomPixels((2, 5), None, 9), RandomPixels()])
def test_random_pixels_do_not_coincide(rng, law):
    for _ in range(20):
        context, target, _ = law.draw(rng, 3, 20, 20)
        both = np.concatenate([context, target], 1)
        assert all(len(set(row)) == both.shape[1] for row in both) and both.min() >= 0 and both.max() < 400
        if law.num_target is None:
            assert both.shape[1] == (400 if law.max_points is None else 9)
        assert len({tuple(row) for row in both}) == 3  # each image has its own


def picture(law, rng, height, width, count):
    """All contexts of `count` draws as sets, and whether targets are exactly the other pixels."""
    contexts = set()
    for _ in range(count):
        context, target, factor = law.draw(rng, 2, height, width)
        assert (context[0] == context[1]).all() and factor == 1
        assert sorted([*context[0], *target[0]]) == list(range(height * width))
        contexts.add(tuple(context[0].tolist()))
    return contexts


def test_a_grid_is_every_kth_pixel(rng):
    every = {
        k: tuple(r * 9 + c for r in range(8) for c in range(9) if r % k == (k - 1) // 2 == c % k) for k in (2, 3, 5)
    }
    assert picture(GridPixels((2, 3, 5)), rng, 8, 9, 50) == set(every.values())


def test_a_half_is_seen(rng):
    sides = {
        "top": tuple(p for p in range(30) if p // 6 < 2),
        "bottom": tuple(p for p in range(30) if p // 6 > 2),
        "left": tuple(p for p in range(30) if p % 6 < 3),
        "right": tuple(p for p in range(30) if p % 6 > 2),
    }
    assert picture(HalfImage(tuple(sides)), rng, 5, 6, 80) == set(sides.values())
    assert picture(HalfImage(), rng, 5, 6, 40) == {sides["top"], sides["left"]}


def test_a_coarser_image_is_seen(rng):
    factors = set()
    for _ in range(30):
        context, target, factor = SuperResolution((2, 3)).draw(rng, 2, 12, 6)
        assert context.tolist() == [list(range(72 // factor**2))] * 2 and target.tolist() == [list(range(72))] * 2
        factors.add(factor)
    assert factors == {2, 3}


@pytest.mark.parametrize("law", [GridPixels((4,), (5, 9)), HalfImage(("top",), (5, 9)), SuperResolution((4,), (5, 9))])
def test_patterns_with_a_few_targets(rng, law):
    sizes, seen = set(), np.zeros(64)
    for _ in range(300):
        context, target, factor = law.draw(rng, 4, 8, 8)
        assert all(len(set(row)) == target.shape[1] for row in target) and (target[0] != target[1]).any()
        assert factor > 1 or not set(context[0]) & set(target.ravel().tolist())
        sizes.add(target.shape[1])
        seen += np.bincount(target.ravel(), minlength=64)
    assert sizes == {5, 6, 7, 8, 9}
    assert chisquare(seen[seen > 0]).pvalue > 1e-4
    assert (seen > 0).sum() == {GridPixels: 60, HalfImage: 32, SuperResolution: 64}[type(law)]


@pytest.mark.parametrize("law", [RandomPixels((4, 8), (1, 3), None), GridPixels((2, 4)), SuperResolution((2, 4))])
def test_figures_go_through_what_is_possible(rng, law):
    shown = [law.show(rng, share, 8, 8) for share in (0.0, 1.0)]
    assert all(chosen.target.tolist() == [list(range(64))] for chosen in shown)
    assert [chosen.context.shape for chosen in shown] == (
        [(1, 4), (1, 8)] if type(law) is RandomPixels else [(1, 16), (1, 4)]
    )


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (RandomPixels((3, 196), (3, 196), 199), r"expected at most 64 points.* got 199"),
        (RandomPixels((3, 64), None, None), r"expected at most 64 points.* got 65"),
        (GridPixels((2, 9)), r"spacings of at most 8.*\[2, 9\]"),
        (GridPixels((2,), (3, 49)), r"at most 48 targets beside 16 context pixels.*\[3, 49\]"),
        (SuperResolution((3,)), r"factors that divide 8 rows and 8 columns, got \[3\]"),
        (SuperResolution((2,), (3, 65)), r"at most 64 targets"),
    ],
)
def test_images_with_too_few_pixels(law, message):
    with pytest.raises(ConfigError, match=message):
        law.check(8, 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomPixels((3, 196), (3, 196), 198),
        lambda: RandomPixels((5, 3)),
        lambda: RandomPixels(num_target=(0, 3)),
        lambda: GridPixels(()),
        lambda: GridPixels((1,)),
        lambda: SuperResolution((2, 1)),
        lambda: HalfImage(()),
    ],
)
def test_bad_settings_are_typed_errors(make):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        make()


def test_an_unknown_side_is_a_typed_error(untyped):
    with pytest.raises(ConfigError, match=r"top, bottom, left, right, got \['middle'\]"):
        HalfImage(("middle",))
