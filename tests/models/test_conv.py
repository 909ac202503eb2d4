import pytest
import torch

import npexp
from npexp.errors import ConfigError, DataError
from npexp.models import ConvCNP, ConvNP
from npexp.models.base import NeuralProcess
from npexp.objectives import elbo, loglik
from tests.contracts.checks import differ, same, tasks

SMALL = {"dz": 8, "num_levels": 2, "points_per_unit": 4.0}
MODELS = ["convcnp", "convnp", "convgnp"]


def small(name: str, dx: int = 1, dy: int = 1, **settings) -> NeuralProcess:
    torch.manual_seed(0)
    extra = {"dim_latent": 3, "num_samples": 4} if name == "convnp" else {}
    return npexp.build(name, dx=dx, dy=dy, **{**SMALL, **extra, **settings}).double().eval()


def task(
    dx: int = 1, dy: int = 1, b: int = 2, nc: int = 6, nt: int = 5, reach: float = 1.8
) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    xc, xt = (reach * (2 * torch.rand(b, n, dx, generator=g, dtype=torch.float64) - 1) for n in (nc, nt))
    return xc, torch.randn(b, nc, dy, generator=g, dtype=torch.float64), xt


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dx", [1, 2, 3])
def test_dimensions(name, dx):
    model = small(name, dx, 2, domain=(-1.0, 1.0), points_per_unit=2.0)
    xc, yc, xt = task(dx, 2, reach=1.0)
    pred = model(xc, yc, xt)
    assert pred.mean.shape == (2, 5, 2) and (pred.stddev > 0).all()
    assert differ(pred, model(xc, yc + 1, xt))


@pytest.mark.parametrize("name", MODELS)
def test_inputs_outside_the_domain_are_refused(name):
    model = small(name, domain=(0.0, 1.0))
    x, y = torch.full((1, 1, 1), 0.5, dtype=torch.float64), torch.zeros(1, 1, 1, dtype=torch.float64)
    state = model.encode(x, y)
    for outside in (x + 0.6, x - 0.6):
        for verb in (lambda v: model.encode(v, y), lambda v: model.update(state, v, y)):
            with pytest.raises(DataError, match=r"context x within the model's domain \[0, 1\].*wider `domain`"):
                verb(outside)
        with pytest.raises(DataError, match=r"target x within the model's domain \[0, 1\]"):
            model.predict(state, outside)


@pytest.mark.parametrize("name", MODELS)
def test_padding_may_lie_outside_a_domain_without_zero(name):
    model = small(name, domain=(3.0, 4.0))
    xc, yc, xt = task(b=1, reach=0.5)
    mask_c, mask_t = torch.arange(6)[None] < 4, torch.arange(5)[None] < 2
    padded = model(xc + 3.5, yc, xt + 3.5, mask_c, mask_t)
    assert padded.mean.isfinite().all()
    alone = model(xc[:, :4] + 3.5, yc[:, :4], xt[:, :2] + 3.5)
    torch.testing.assert_close(padded.mean[:, :2], alone.mean)


@pytest.mark.parametrize("name", MODELS)
def test_far_more_points_do_not_move_the_lattice(name):
    model = small(name)
    xc, yc, xt = task(reach=0.3)
    more = torch.cat([xt, torch.linspace(-2, 2, 50, dtype=torch.float64)[None, :, None].expand(2, -1, -1)], 1)
    state = model.encode(xc, yc)
    torch.testing.assert_close(model.predict(state, more).mean[:, :5], model.predict(state, xt).mean)
    far = torch.cat([xc, torch.full_like(xc, 2.0)], 0), torch.cat([yc, yc], 0), torch.cat([xt, -2 + 0 * xt], 0)
    torch.testing.assert_close(model(*far).mean[:2], model(xc, yc, xt).mean)


@pytest.mark.parametrize("name", ["convcnp", "convgnp"])
@pytest.mark.parametrize("dx", [1, 2])
def test_shifts_of_the_coarsest_step_change_nothing_well_inside(name, dx):
    model = small(name, dx, domain=(-12.0, 12.0), num_levels=1)  # spacing 1/4, coarsest step 1/2
    xc, yc, xt = task(dx, reach=1.0)
    before = model(xc, yc, xt)
    same(before, model(xc + 1.5, yc, xt + 1.5), rtol=0, atol=1e-10)
    assert differ(before, model(xc + 0.1, yc, xt + 0.1))  # other shifts are not exact


def test_a_missing_pixel_is_not_a_pixel_of_value_zero():
    model = small("convcnp", 2, domain=(0.0, 1.0), points_per_unit=4.0)
    side = torch.linspace(0, 1, 5, dtype=torch.float64)
    pixels = torch.cartesian_prod(side, side)[None]
    y = torch.zeros(1, 25, 1, dtype=torch.float64)
    known = (torch.arange(25) != 12)[None]
    assert differ(model(pixels, y, pixels), model(pixels, y, pixels, known))
    same(model(pixels, y, pixels, known), model(pixels[known][None], y[known][None], pixels))


@pytest.mark.parametrize("name", MODELS)
def test_float32_survives_the_removal_of_everything(name):
    model = small(name).float()
    xc, yc, xt = (v.float() for v in task(nc=60))
    state = model.encode(xc, yc)
    emptied = model.predict(model.remove(state, xc.flip(1), yc.flip(1)), xt)
    prior = model(xc[:, :0], yc[:, :0], xt)
    same(emptied, prior, rtol=0, atol=0.02 * float(yc.abs().max()))


@pytest.mark.parametrize("objective", [elbo, loglik])
def test_latent_function_learns(objective):
    model, t = small("convnp", 2, 2, domain=(-6.0, 6.0), points_per_unit=1.0), tasks()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        torch.manual_seed(0)
        loss = objective(model, t, 4).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05, losses


def test_latents_stand_on_the_lattice():
    model = small("convnp", dim_latent=3)
    xc, yc, xt = task()
    z = model.distribution(model.encode(xc, yc))
    assert z.mean.shape == (2, 3 * model.lattice.num_points)
    # a latent far from a target, beyond what the U-Net sees, does not reach it
    near = small("convnp", domain=(-10.0, 10.0), num_levels=1)
    state, zeros = near.encode(xc, yc), torch.zeros(1, 2, 3 * near.lattice.num_points, dtype=torch.float64)
    ones = zeros.clone().unflatten(-1, (3, -1))
    ones[..., -20:] = 1
    same(near.decode(state, zeros, xt), near.decode(state, ones.flatten(-2), xt), rtol=0, atol=1e-10)


@pytest.mark.parametrize("model", [ConvCNP, ConvNP])
@pytest.mark.parametrize(
    "settings", [{"dx": 4}, {"domain": (1.0, -1.0)}, {"points_per_unit": -1.0}, {"num_levels": -1}, {"kernel_size": 2}]
)
def test_impossible_settings_are_refused(model, settings):
    with pytest.raises(ConfigError, match="expected"):
        model(**{"dx": 1, "dy": 1, **settings})
