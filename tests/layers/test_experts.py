"""What a bank of experts says, against mixtures in NumPy."""

import numpy as np
import torch
from torch import nn

from npexp.layers.experts import Experts, ExpertTokens

B, N, DY, K = 2, 5, 2, 3


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def experts():
    return Experts.weigh(
        draw(B, 1, DY, K), draw(B, N, DY, K, seed=1), 0.3 * draw(B, N, DY, K, seed=2), draw(B, 1, DY, K, seed=3), None
    )


def check_moments(found, logits):
    weight = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mean = (weight * found.means.numpy()).sum(-1)
    second = (weight * (np.exp(2 * found.log_stddevs.numpy()) + found.means.numpy() ** 2)).sum(-1)
    np.testing.assert_allclose(found.mean, mean)
    np.testing.assert_allclose(np.exp(2 * found.log_stddev.numpy()), second - mean**2)


def test_moments_of_the_mixture():
    """Before and after every target has gates of its own."""
    whole, gates = experts(), draw(B, N, DY, K, seed=4)
    check_moments(whole, whole.logits.numpy())
    check_moments(whole.reweighed(gates), (whole.logits + gates).numpy())


def test_tokens_are_relative_to_the_mixture():
    found, tokens = experts(), ExpertTokens(DY, K, 7)
    assert tokens.embed.in_features == 2 * DY * (K + 1)
    with torch.no_grad():  # the identity
        tokens.embed = nn.Linear(2 * DY * (K + 1), 2 * DY * (K + 1), bias=False, dtype=found.means.dtype)
        tokens.embed.weight.copy_(torch.eye(2 * DY * (K + 1)))
    found = found._replace(means=found.means + torch.tensor([0.0, 0.0, 1e3]))  # beyond all reason
    told = tokens(found).detach().view(B, N, DY, 2 * K + 2).numpy()
    mean, log_stddev = found.mean.numpy()[..., None], found.log_stddev.numpy()[..., None]
    np.testing.assert_allclose(told[..., :K], np.clip((found.means.numpy() - mean) / np.exp(log_stddev), -8, 8))
    assert (told[..., K - 1] == 8).all()
    np.testing.assert_allclose(told[..., K : 2 * K], found.log_stddevs.numpy() - log_stddev)
    np.testing.assert_allclose(told[..., 2 * K :], np.concatenate([mean, log_stddev], -1))
