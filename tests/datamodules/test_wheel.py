"""The wheel: the published draw and training set, the law of new wheels, and games with the published reference."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from datamodules import Wheel, wheel_game
from npexp.bandits import Uniform, play
from npexp.errors import ConfigError

# Cumulative regret of the uniform agent, its spread over 50 orders in per cent (as printed in Nguyen & Grover 2022,
# Table 3, for the first five radii), and how many of the 2,000 contexts pay well, in per cent.
UNIFORM = {
    0.7: (40767, "1.18", 52),
    0.9: (14469, "3.03", 18),
    0.95: (7603, "4.16", 9.4),
    0.99: (1621, "7.52", 1.7),
    0.995: (1161, "8.11", 1.1),
    0.999: (475, "7.96", 0.2),
}


@pytest.mark.parametrize("delta", UNIFORM)
def test_the_published_row_of_the_uniform_agent(delta):
    game = wheel_game(delta)
    played = play(Uniform(), game)
    mean, spread, share = UNIFORM[delta]
    assert played.regret.sum(1).mean().round() == mean
    assert f"{played.percent(played).std(correction=0):.2f}" == spread
    assert 100 * (game.optimal > 10).double().mean() == pytest.approx(share, abs=0.5 if share > 10 else 0.05)


def best(x, delta):
    """The best arm of a context, from the rules of the game, one at a time."""
    if x[0] ** 2 + x[1] ** 2 < delta**2:
        return 0
    return {(True, True): 1, (False, True): 2, (False, False): 3, (True, False): 4}[x[0] > 0, x[1] > 0]


def test_published_games_differ_in_order_only():
    game = wheel_game(0.9, num_games=3)
    assert (
        game.contexts.shape == (3, 2000, 2) and game.rewards.shape == (3, 2000, 5) and game.optimal.shape == (3, 2000)
    )
    every = torch.cat([game.contexts, game.rewards, game.optimal[..., None]], -1)
    ranked = [rows[rows[:, 0].argsort()] for rows in every]
    assert torch.equal(ranked[0], ranked[1]) and torch.equal(ranked[0], ranked[2])
    assert not torch.equal(every[0], every[1])
    assert torch.equal(wheel_game(0.9, num_games=2, seed=1).rewards, game.rewards[1:])


@pytest.mark.parametrize("published", [True, False])
def test_rewards_follow_their_law(published):
    delta = 0.8
    game = wheel_game(delta, num_games=1 if published else 20, published=published)
    x, rewards = game.contexts.flatten(0, 1).numpy(), game.rewards.flatten(0, 1).numpy()
    arms = np.array([best(point, delta) for point in x])
    assert np.array_equal(game.optimal.flatten().numpy(), rewards[np.arange(len(x)), arms])
    # uniform in the disc: squares of radii and angles are uniform
    assert kstest((x**2).sum(1), "uniform").pvalue > 0.01
    assert kstest(np.arctan2(*x.T), "uniform", (-np.pi, 2 * np.pi)).pvalue > 0.01
    large = (np.arange(5) == arms[:, None]) & (arms[:, None] > 0)
    means = np.broadcast_to([1.2, 1, 1, 1, 1], rewards.shape)
    assert kstest((rewards[large] - 50) / 0.01, norm.cdf).pvalue > 0.01
    for arm in range(5):
        small = ~large[:, arm]
        assert kstest((rewards[small, arm] - means[small, arm]) / 0.05, norm.cdf).pvalue > 0.01


def test_new_games_are_independent():
    games = wheel_game(0.9, num_games=400, num_steps=20, published=False)
    assert len(torch.unique(games.contexts[..., 0])) == 8000
    other = wheel_game(0.9, num_games=400, num_steps=20, published=False, seed=1)
    assert not torch.equal(games.rewards, other.rewards)
    # the published spread is only that of the order: with new contexts each time there is that of their number, too
    regret = play(Uniform(), wheel_game(0.95, num_games=100, published=False)).regret.sum(1)
    rare, gap = 1 - 0.95**2, 49  # a step costs about 49 with probability 0.8 rare, else 0.2 with probability 0.8
    expected = 2000 * 0.8 * (rare * gap + (1 - rare) * 0.2)
    square = 0.8 * (rare * gap**2 + (1 - rare) * (0.2**2 + 2 * 0.05**2))
    spread = (2000 * (square - (expected / 2000) ** 2)) ** 0.5
    assert regret.mean() == pytest.approx(expected, abs=4 * spread / 100**0.5)
    assert regret.std() == pytest.approx(spread, rel=0.3)


def test_the_published_training_set():
    dm = Wheel(hidden=0.0)
    a, b = (dm.make_batch("train", index).check() for index in (0, 7))
    assert a.xc.shape == (8, 512, 2) and a.xt.shape == (8, 562, 2) and a.yt.shape == (8, 562, 5)
    assert all(torch.equal(v, w) for v, w in zip(a[:4], b[:4], strict=True))  # the same at every step
    assert torch.equal(a.xt[:, :512], a.xc) and torch.equal(a.yt[:, :512], a.yc)
    deltas = torch.rand(8, generator=torch.Generator().manual_seed(0))
    for x, y, delta in zip(a.xt.numpy(), a.yt.numpy(), deltas.tolist(), strict=True):
        arms = np.array([best(point, delta) for point in x])
        assert np.array_equal(y.max(1) > 10, arms > 0)
        assert np.array_equal(y.argmax(1)[arms > 0], arms[arms > 0])
    # All wheels have the same contexts, in their own orders: the first 562 of those that are played.
    first = {tuple(p) for p in wheel_game(0.5, 1).contexts[0].float().tolist()}
    sets = [{tuple(p) for p in x.tolist()} for x in a.xt]
    assert all(s == sets[0] for s in sets) and sets[0] < first and not torch.equal(a.xt[0], a.xt[1])
    assert not torch.equal(Wheel(seed=1, hidden=0.0).make_batch("train", 0).yt, a.yt)


def test_rewards_are_hidden_by_noise():
    dm, shown = Wheel(), Wheel(hidden=0.0).make_batch("train", 0)
    a, b = (dm.make_batch("train", index) for index in (0, 1))
    assert torch.equal(a.yt, shown.yt)  # what is asked for is true
    hidden = [batch.yc != shown.yc for batch in (a, b)]
    assert torch.equal(*(batch.xc for batch in (a, b))) and (hidden[0] != hidden[1]).any()
    for h, batch in zip(hidden, (a, b), strict=True):
        assert h.float().mean() == pytest.approx(0.5, abs=0.015)  # of 20,480 entries
        assert kstest(batch.yc[h], norm.cdf).pvalue > 0.01
        assert h.float().sum(-1).var() == pytest.approx(5 * 0.25, rel=0.1)  # each entry alone
    everything = Wheel(hidden=1.0).make_batch("train", 0)
    assert (everything.yc != shown.yc).all()


def test_evaluation_wheels_are_new():
    dm = Wheel(num_val_batches=2)
    batches = [dm.make_batch(split, index).check() for split in ("val", "test") for index in (0, 1)]
    known = {tuple(p) for p in dm.make_batch("train", 0).xt.flatten(0, 1).tolist()}
    for batch in batches:
        assert batch.xc.shape == (8, 512, 2) and batch.xt.shape == (8, 50, 2)  # context points are not asked for
        assert not known & {tuple(p) for p in batch.xc.flatten(0, 1).tolist()}
    assert len({float(b.xc[0, 0, 0]) for b in batches}) == 4


def test_fresh_wheels_have_radii_in_range():
    dm = Wheel(delta=(0.6, 0.7), fixed=False, num_context=(1, 30), num_target=(500, 500), ask_context=False)
    for index in range(5):
        batch = dm.make_batch("train", index).check()
        assert 1 <= batch.xc.shape[1] <= 30 and batch.xt.shape[1] == 500
        radius, rich = batch.xt.norm(dim=-1), batch.yt.max(-1).values > 10
        assert not rich[radius < 0.6].any() and rich[radius >= 0.7].all() and rich.any()


def test_plot_tasks():
    tasks = Wheel(hidden=0.0).plot_tasks(2)
    for task, delta in zip(tasks, (1 / 3, 2 / 3), strict=True):
        assert task.kind == "image" and task.image_shape == (33, 33) and task.batch.check().xc.shape[1] == 512
        grid, truth = task.batch.xt[0].numpy(), task.truth[0].numpy()
        assert grid[0].tolist() == [-1, 1] and grid[32].tolist() == [1, 1]  # as one looks at the plane
        for point, means in zip(grid, truth, strict=True):
            expected = [1.2, 1, 1, 1, 1]
            if arm := best(point, delta):
                expected[arm] = 50
            np.testing.assert_allclose(means, expected)


BAD_GAMES = [
    ({"delta": 1.0}, "expected 0 < delta < 1, got 1.0"),
    ({"delta": 0.0}, "expected 0 < delta < 1, got 0.0"),
    ({"delta": float("nan")}, "expected 0 < delta < 1, got nan"),
    ({"num_games": 0}, "expected num_games to be an integer, at least 1, got 0"),
    ({"num_steps": 2}, "expected num_steps to be an integer, at least 3, got 2"),
    ({"seed": -1}, "expected seed to be an integer, at least 0, got -1"),
]
BAD_SETTINGS = [
    ({"delta": (0.5, 1.5)}, r"expected delta as \[low, high\] with high <= 1"),
    ({"delta": (-0.5, 0.5)}, r"expected delta as \[low, high\] with 0.0 <= low"),
    ({"delta": (0.7, 0.2)}, "low <= high"),
    ({"hidden": 1.5}, "expected hidden <= 1, got 1.5: it is a probability"),
    ({"hidden": -0.1}, "expected hidden to be a number, at least 0.0, got -0.1"),
    ({"num_context": (1, 1), "num_target": (1, 1)}, "num_context and num_target together"),
]


@pytest.mark.parametrize("settings, message", BAD_GAMES)
def test_bad_games_are_typed_errors(settings, message, untyped):
    with pytest.raises(ConfigError, match=message):
        wheel_game(**settings)


@pytest.mark.parametrize("settings, message", BAD_SETTINGS)
def test_bad_settings_are_typed_errors(settings, message, untyped):
    with pytest.raises(ConfigError, match=message):
        Wheel(**settings)
