"""The data contract: what every datamodule yields and every model consumes.

Shapes: `b` tasks, `nc` context points, `nt` target points, `dx`/`dy` input and output size.
Masks are boolean, True = real point; `None` means that every point is real. Padded slots may hold anything.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from npexp.errors import DataError, ShapeError


class TaskBatch(NamedTuple):
    """A batch of tasks: condition on the context, predict the targets.

    Args:
        xc: context inputs, `[b, nc, dx]`.
        yc: context outputs, `[b, nc, dy]`.
        xt: target inputs, `[b, nt, dx]`.
        yt: target outputs, `[b, nt, dy]`.
        mask_c: real context points, `[b, nc]`.
        mask_t: real target points, `[b, nt]`.
        oracle_joint: log p(yt | xc, yc, xt) under the law that made the task, `[b]`, in nats.
        oracle_marginal: the same for each target alone, its outputs together, `[b, nt]`, in nats.
    """

    xc: Float[Tensor, "b nc dx"]
    yc: Float[Tensor, "b nc dy"]
    xt: Float[Tensor, "b nt dx"]
    yt: Float[Tensor, "b nt dy"]
    mask_c: Bool[Tensor, "b nc"] | None = None
    mask_t: Bool[Tensor, "b nt"] | None = None
    oracle_joint: Float[Tensor, " b"] | None = None
    oracle_marginal: Float[Tensor, "b nt"] | None = None

    @property
    def num_tasks(self) -> int:
        """`b`."""
        return self.xc.shape[0]

    @property
    def num_context(self) -> Tensor:
        """Real context points per task, `[b]`, int64."""
        return count(self.mask_c, self.xc)

    @property
    def num_target(self) -> Tensor:
        """Real target points per task, `[b]`, int64."""
        return count(self.mask_t, self.xt)

    def check(self) -> "TaskBatch":
        """Returns itself when shapes agree and real points are finite.

        Raises:
            ShapeError: sizes contradict each other.
            DataError: no task, a task without targets, or NaN or infinite values at a real point.
        """
        check_points("context", self.xc, self.yc, self.mask_c)
        check_points("target", self.xt, self.yt, self.mask_t)
        if self.xc.shape[0] != self.xt.shape[0]:
            raise ShapeError(f"context has {self.xc.shape[0]} tasks and targets {self.xt.shape[0]}: give both the same")
        for name, c, t in (("x", self.xc, self.xt), ("y", self.yc, self.yt)):
            if c.shape[-1] != t.shape[-1]:
                raise ShapeError(f"{name}c has {c.shape[-1]} columns and {name}t {t.shape[-1]}: give both the same")
        if self.num_tasks == 0 or bool((self.num_target == 0).any()):
            raise DataError("expected at least one task and one real target per task, got an empty data set")
        check_finite("context", self.xc, self.yc, self.mask_c)
        check_finite("target", self.xt, self.yt, self.mask_t)
        return self


def count(mask: Tensor | None, points: Tensor) -> Tensor:
    """Real points per task, `[b]`, int64, from a mask `[b, n]` or, without one, from points `[b, n, d]`."""
    if mask is None:
        return points.new_full((points.shape[0],), points.shape[1], dtype=torch.long)
    return mask.sum(1)


def real(mask: Tensor | None, points: Tensor) -> Tensor:
    """The mask `[b, n]`, spelt out where None says that all points `[b, n, d]` are real."""
    return torch.ones(points.shape[:2], dtype=torch.bool, device=points.device) if mask is None else mask


def check_points(kind: str, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> None:
    """Raises `ShapeError` unless x is `[b, n, dx]`, y `[b, n, dy]` and mask a boolean `[b, n]`."""
    if x.ndim != 3 or (y is not None and y.ndim != 3):
        got = f"x {list(x.shape)}" + ("" if y is None else f", y {list(y.shape)}")
        raise ShapeError(f"expected {kind} x [b, n, dx] and y [b, n, dy], got {got}: add the missing axes")
    if y is not None and x.shape[:2] != y.shape[:2]:
        raise ShapeError(f"{kind} x {list(x.shape)} and y {list(y.shape)} differ in tasks or points: align them")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
        raise ShapeError(
            f"expected a boolean {kind} mask {list(x.shape[:2])} (True = real point), "
            f"got {mask.dtype} {list(mask.shape)}"
        )


def check_finite(kind: str, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> None:
    """Raises `DataError` when a real point holds NaN or an infinity; padded slots are not looked at."""
    for name, values in (("x", x), ("y", y)):
        if values is None:
            continue
        bad = ~values.isfinite()
        if mask is not None:
            bad = bad & mask[..., None]
        if bool(bad.any()):
            task, point, column = (int(i) for i in bad.nonzero()[0])
            raise DataError(
                f"{kind} {name} holds NaN or an infinity, first at task {task}, point {point}, column {column}: "
                "drop the point or set its mask to False"
            )


def pad_points(points: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stacks `[n_i, d]` tensors to `[b, max n, d]` with a mask `[b, max n]`, or None when all have one length."""
    sizes = torch.tensor([p.shape[0] for p in points])
    longest = int(sizes.max())
    if bool((sizes == longest).all()):
        return torch.stack(points), None
    padded = points[0].new_zeros(len(points), longest, points[0].shape[1])
    for row, p in zip(padded, points, strict=True):
        row[: p.shape[0]] = p
    return padded, torch.arange(longest) < sizes[:, None]
