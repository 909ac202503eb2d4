"""The benchmarks' twins of published models compute what ours compute: what makes a ratio of times honest."""

import copy

import pytest
import torch

import npexp
from benchmarks.train_step import PROTOCOLS, our_loss
from benchmarks.twins import TWINS, twin
from npexp.models.bootstrap import BootstrapNeuralProcess
from npexp.models.latent import LatentNeuralProcess

TRANSFORMER = {"dz": 16, "num_heads": 2, "num_layers": 3, "dim_feedforward": 8, "dim_head": 8}
SIZES = {
    "tnpd": TRANSFORMER,
    "tnpa": TRANSFORMER,
    "eqtnp": TRANSFORMER,
    "lbanp": {**TRANSFORMER, "num_latents": 5},
    "cmanp": {**TRANSFORMER, "num_latents": 5, "num_block_latents": 7},
    "cnp": {"dz": 8},
    "np": {"dz": 8, "dim_latent": 4, "num_samples": 3},
    "canp": {"dz": 8, "num_heads": 2},
    "anp": {"dz": 8, "num_heads": 2, "dim_latent": 4, "num_samples": 3},
    "bnp": {"dz": 8, "num_samples": 3},
    "banp": {"dz": 8, "num_heads": 2, "num_samples": 3},
}


def model(name):
    torch.manual_seed(0)
    net = npexp.build(f"paper/{name}", dx=1, dy=1, **SIZES[name]).double()
    with torch.no_grad():
        for p in net.parameters():  # biases too
            p.add_(0.1 * torch.randn_like(p))
    return net


def batch(nc=7, nt=4):
    torch.manual_seed(1)
    xc, yc, xt, yt = (torch.randn(3, n, 1, dtype=torch.float64) for n in (nc, nc, nt, nt))
    return npexp.TaskBatch(xc.sort(1)[0], yc, xt, yt)  # sorted, as ours has it when it draws points for a bootstrap


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", TWINS)
def test_same_loss_and_gradients(name):
    ours, tasks = model(name), batch()
    theirs = twin(name, ours)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())

    torch.manual_seed(2)
    expected = our_loss(ours, tasks, PROTOCOLS[name])
    expected.backward()
    torch.manual_seed(2)
    loss = theirs.loss(tasks)
    loss.backward()
    close(loss, expected)

    gradients = copy.deepcopy(ours)  # our gradients, put where the twin has its weights
    for to, p in zip(gradients.parameters(), ours.parameters(), strict=True):
        to.data = p.grad
    for (key, p), g in zip(theirs.named_parameters(), twin(name, gradients).parameters(), strict=True):
        assert p.grad is not None, key
        close(p.grad, g)


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("grad", [True, False])
def test_same_predictions(name, grad):
    """Without gradients, in eval mode, by the other code that PyTorch's encoder layers have."""
    ours, tasks = model(name).eval(), batch()
    theirs = twin(name, ours)
    with torch.set_grad_enabled(grad):
        torch.manual_seed(2)
        expected = predict(ours, tasks)
        torch.manual_seed(2)
        law = theirs(*tasks[:3])
        close(law.mean, expected.mean)
        close(law.stddev, expected.stddev)


def predict(net, tasks):
    """Our law; where it mixes over draws, the components under fresh ones."""
    if isinstance(net, LatentNeuralProcess):
        state = net.encode(tasks.xc, tasks.yc)
        return net.decode(state, net.distribution(state).rsample((len(net.noise),)), tasks.xt).law
    if isinstance(net, BootstrapNeuralProcess):
        return net.predict(net.bootstrap(tasks.xc, tasks.yc, None, net.num_samples), tasks.xt).law
    return net(*tasks[:3])


def test_cmanp_streams():
    ours, tasks = model("cmanp").eval(), batch()
    theirs = twin("cmanp", ours)
    with torch.no_grad():
        held, _ = theirs.stream(None, tasks.xc[:, :5], tasks.yc[:, :5], 2)
        _, memory = theirs.stream(held, tasks.xc[:, 5:], tasks.yc[:, 5:], 1)
        a, b = ours(*tasks[:3]), theirs.query(memory, tasks.xt)
        close(a.mean, b.mean)
        close(a.stddev, b.stddev)


def test_tnpa_samples_the_same_law():
    """The twin draws a target and reads it back; so its draws score as our chain rule says."""
    ours, tasks = model("tnpa").eval(), batch(nt=3)
    theirs = twin("tnpa", ours)
    with torch.no_grad():
        torch.manual_seed(3)
        draws = theirs.sample(*tasks[:3], 200)
        law = ours(*tasks[:3])
        first = (draws[:, :, 0] - law.mean[:, 0]) / law.stddev[:, 0]  # the first target's law is a normal
        assert first.mean().abs() < 3 / 600**0.5 and abs(first.std() - 1) < 3 / 1200**0.5
        chain = theirs.chain(*tasks[:3], draws[0])
        close(chain.log_prob(draws[0]).sum((1, 2)), law.joint_log_prob(draws[0]))
        rest = draws.flatten(0, 1)
        xc, yc, xt = (v.repeat(200, 1, 1) for v in tasks[:3])
        alone = theirs.chain(xc, yc, xt, rest)
        z = (rest - alone.mean) / alone.stddev
        assert z.mean().abs() < 3 / z.numel() ** 0.5 and abs(z.std() - 1) < 3 / (2 * z.numel()) ** 0.5
