"""What each part of RMNP is worth: one row per change, 5,000 steps on 1-D RBF, everything else as the recipe has it.

    OMP_NUM_THREADS=1 python results/moment/ablations.py [--only NAME ...] [--steps 5000] [--seed 0] [--table FILE]

Writes ablations.csv beside this file. Rows that are settings are trained and tested by `npexp fit` and `npexp test`;
others replace `ridge` and `ridge_rows` under the model here. All are tested after their last step, on 3,008 tasks per
law. Rows that are there are kept, and several of these may run side by side with other `--only`.

The row `full` is also `law: mixture` with misfit, 64 features, 6 + 3 heads, Fourier basis and float64.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from train import HERE, LR, Table, by_command, fit, row, score

import npexp
from npexp.ops.ridge import Ridge

PLAIN = ["likelihood=npexp.likelihoods.Gaussian", "likelihood.init_args.min_stddev=0.01"]
SETTINGS: dict[str, list[str]] = {
    "full": [],
    "no second pass": ["num_refined=0"],
    "9 fixed heads": ["num_priors=9", "num_refined=0"],
    "law anchored": ["law=anchored"],
    "law joint": ["law=joint"],
    "law plain": PLAIN,
    "law mixture, no misfit": ["misfit=false"],
    "law anchored, no misfit": ["law=anchored", "misfit=false"],
    "basis mlp": ["basis=mlp"],
    "basis fourier_mlp": ["basis=fourier_mlp"],
    "32 features": ["num_features=32"],
    "48 features": ["num_features=48"],
    "96 features": ["num_features=96"],
    "2 + 1 heads": ["num_priors=2", "num_refined=1"],
    "4 + 2 heads": ["num_priors=4", "num_refined=2"],
    "8 + 4 heads": ["num_priors=8", "num_refined=4"],
    "accumulate float32": ["accumulate=float32"],
    "stationary": ["stationary=true"],
    "robust": ["robust=true"],
    "robust, 96 features": ["robust=true", "num_features=96"],
}


def _diagonal(inverse: Tensor, log_det: Tensor, cross: Tensor, scale: Tensor) -> Ridge:
    """What a diagonal A gives, `[g, k, m]` its inverse."""
    weights = (scale.square() * inverse)[..., None] * cross[:, None]
    return Ridge(weights, log_det, inverse.sqrt().diag_embed())


def linear_attention(gram: Tensor, cross: Tensor, scale: Tensor) -> Ridge:
    """A = I: w = D^2 S, a kernel sum over the context as linear attention reads it."""
    return _diagonal(torch.ones_like(scale), torch.zeros_like(scale[..., 0]), cross, scale)


def each_alone(gram: Tensor, cross: Tensor, scale: Tensor) -> Ridge:
    """A = I + diag(D G D): every feature is normalised, as if it were orthogonal to the others on the context."""
    a = 1 + scale.square() * gram.to(scale.dtype).diagonal(dim1=1, dim2=2)[:, None]
    return _diagonal(1 / a, a.log().sum(-1), cross, scale)


def autograd_rows(gram: Tensor, scale: Tensor, whiten: Tensor, phi: Tensor) -> Tensor:
    """Rows D phi Q' with ordinary gradients."""
    return (scale[..., None, :] * phi[:, None]) @ whiten.mT


def explicit_inverse(gram: Tensor, cross: Tensor, scale: Tensor) -> Ridge:
    """A^-1 formed, and everything through it: in float32 with gradients, as the model computes then."""
    eye = torch.eye(gram.shape[-1], dtype=scale.dtype)
    a = scale[..., None] * gram.to(scale.dtype)[:, None] * scale[..., None, :] + eye
    inverse = torch.linalg.inv(a)
    right = scale[..., None] * cross[:, None]
    return Ridge(scale[..., None] * (inverse @ right), torch.linalg.slogdet(a)[1], inverse)


def explicit_rows(gram: Tensor, scale: Tensor, whiten: Tensor, phi: Tensor) -> Tensor:
    """One number per target with the square phi' D A^-1 D phi, enough for laws of single targets."""
    rows = scale[..., None, :] * phi[:, None]
    return ((rows @ whiten) * rows).sum(-1, keepdim=True).clamp_min(1e-10).sqrt()


PATCHES: dict[str, tuple[Callable[..., Ridge], Callable[..., Tensor]]] = {
    "no solve": (linear_attention, autograd_rows),
    "diagonal solve": (each_alone, autograd_rows),
    "explicit inverse": (explicit_inverse, explicit_rows),
}


def patched(name: str) -> mock._patch | nullcontext:
    """A context in which the memory solves as this row says."""
    if name not in PATCHES:
        return nullcontext()
    solve, rows = PATCHES[name]
    return mock.patch.multiple("npexp.layers.ridge", ridge=solve, ridge_rows=rows)


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SETTINGS, *PATCHES], metavar="NAME", help="these rows")
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test_batches", type=int, default=188, help="of 16 tasks, per law")
    parser.add_argument("--table", type=Path, default=HERE / "ablations.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(args.table)
    data = npexp.build_data("gp_rbf", num_test_batches=args.test_batches)
    for name in args.only or [*SETTINGS, *PATCHES]:
        if table.has(name=name, seed=args.seed, steps=args.steps):
            continue
        with patched(name):
            if name in PATCHES:
                torch.manual_seed(args.seed)
                net = fit(npexp.build("rmnp", dx=1, dy=1), data, args.steps, LR, args.seed)
                found = score(net, data)
            else:
                words = ["--config", "experiment/gp_rbf_rmnp", *(f"--model.net.{word}" for word in SETTINGS[name])]
                net, found = by_command(words, args.steps, args.seed, args.test_batches)
            table.add(row(name, found, net, data, seed=args.seed, lr=LR, steps=args.steps))


if __name__ == "__main__":
    main()
