"""Trends are straight lines through the origin, and add to other families."""

import pytest
import torch

from datamodules import RBF, GPData, Linear, Sum
from npexp.errors import ConfigError


def test_covariance_is_that_of_lines_with_normal_slopes():
    kernel = Linear(scale=(0.5, 2.0))
    u, x = torch.tensor([[0.0], [1.0]]).double(), torch.randn(1, 5, 2).double()
    covariance = kernel.covariance(u, x, x[:, :3])
    torch.testing.assert_close(covariance, torch.tensor([0.25, 4.0]).double()[:, None, None] * (x @ x[:, :3].mT))


def test_functions_are_lines():
    dm = GPData(Linear(scale=(1.0, 1.0)), noise=0.0001, num_context=(5, 5), num_target=(5, 5), max_points=None)
    batches = [dm.make_batch("train", i).check() for i in range(40)]
    slopes = torch.cat([batch.yt / batch.xt for batch in batches])[..., 0]
    far = torch.cat([batch.xt for batch in batches])[..., 0].abs() > 0.5
    middle = slopes.median(1, keepdim=True).values
    assert (slopes - middle).abs()[far].max() < 2e-3
    assert middle.std() == pytest.approx(1.0, rel=0.1)


def test_it_adds_to_others():
    kernel = Sum([RBF(), Linear()])
    assert kernel.num_hyper == 3
    assert GPData(kernel).make_batch("test", 0).check().oracle_joint.isfinite().all()


def test_bad_settings_are_typed_errors():
    with pytest.raises(ConfigError, match=r"expected scale .* got"):
        Linear(scale=(0.0, 1.0))
