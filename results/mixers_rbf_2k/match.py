"""Equal numbers of weights: the feed-forward width at which a TNP with a mixer is as large as the one with "dense".

    python results/mixers_rbf_2k/match.py [NAME ...]

prints it for these mixers, or for all.
"""

import inspect
import sys
from contextlib import suppress
from typing import Any, NamedTuple

import torch

import npexp
from npexp.errors import ConfigError
from npexp.mixers.base import find_mixer
from npexp.models.base import NeuralProcess

SHELL = {"dx": 1, "dy": 1, "num_layers": 3}  # and what conf/model/tnp.yaml says
WIDTH = 384  # of the dense one's feed-forward networks: wide enough for most latents to have their weights too
WIDTHS = {"gmlp": "dim_hidden", "all_attention": "num_persistent"}  # of those without feed-forward networks
OWN = {"product_key": {"num_keys": 24}}  # of those whose weights do not follow a width
NARROWEST = 16  # a narrower feed-forward network would be another architecture
TOLERANCE = 0.02  # models whose sizes differ by less count as equal


class Match(NamedTuple):
    """What a mixer weighs in the shell.

    Args:
        dim_feedforward: width of the feed-forward networks; of the mixer's own too, where that can be set.
        parameters: weights of the model.
        active: those that one row meets: without experts, units and memory slots that were not chosen for it.
        excess: share of the dense model's weights that it has more.
    """

    dim_feedforward: int
    parameters: int
    active: int
    excess: float


def options(name: str) -> dict[str, Any]:
    """A mixer's own settings, and what they are if nobody says otherwise."""
    cls, preset = find_mixer(name)
    parameters = inspect.signature(cls).parameters.items()
    return {key: parameter.default for key, parameter in parameters if key != "site"} | preset


def build(name: str, dim: int = WIDTH, settings: dict[str, Any] | None = None, **more: Any) -> NeuralProcess:
    """The shell with a mixer, whose own width is the shell's where it has one and nobody says otherwise."""
    own = WIDTHS.get(name, "dim_feedforward")
    settings = ({own: dim} if own in options(name) else {}) | OWN.get(name, {}) | (settings or {})
    return npexp.build("tnp", **SHELL, mixer=name, mixer_args=settings, dim_feedforward=dim, **more)


def match(name: str, settings: dict[str, Any] | None = None) -> Match:
    """The width that brings a mixer closest to the dense model, whose weights grow linearly with it, or not at all."""
    aim = size(build("dense"))
    at, at_twice = (size(build(name, dim, settings)) for dim in (WIDTH, 2 * WIDTH))
    dims = {WIDTH}
    if at_twice != at:
        exact = WIDTH + (aim - at) * WIDTH / (at_twice - at)
        dims = {max(NARROWEST, step * round(exact / step)) for step in (1, 4, 16)}  # some take multiples only
    found: dict[int, NeuralProcess] = {}
    for dim in sorted(dims):
        with suppress(ConfigError):
            found[dim] = build(name, dim, settings)
    dim = min(found, key=lambda d: abs(size(found[d]) - aim))
    smooth = build(name, dim, settings, activation="gelu")  # where no unit is off by chance
    return Match(dim, size(found[dim]), active(smooth), size(found[dim]) / aim - 1)


def size(net: NeuralProcess) -> int:
    """Weights of a model."""
    return sum(p.numel() for p in net.parameters())


def active(net: NeuralProcess) -> int:
    """Weights that one row meets: those of its feed-forward networks that move its output, and all of the rest."""
    idle, generator = 0, torch.Generator().manual_seed(0)
    for block in net.eval().stack.blocks:
        if block.ff is None:
            continue
        row, weights = (torch.randn(1, 1, block.norm.normalized_shape[0], generator=generator) for _ in range(2))
        net.zero_grad()
        (block.ff(row, None) * weights).sum().backward()
        idle += sum(int((p.grad == 0).sum()) if p.grad is not None else p.numel() for p in block.ff.parameters())
    net.zero_grad()
    return size(net) - idle


def main() -> None:
    """Prints the matches."""
    for name in sys.argv[1:] or npexp.available_mixers():
        found = match(name)
        note = "" if abs(found.excess) <= TOLERANCE else "  not matched"
        print(
            f"{name:24} width {found.dim_feedforward:5}  parameters {found.parameters:8,}  active {found.active:8,}  "
            f"{found.excess:+7.1%}{note}"
        )


if __name__ == "__main__":
    main()
