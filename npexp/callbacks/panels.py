"""What is predicted for a few fixed tasks, ready to be drawn: arrays in place of tensors."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from npexp.batch import TaskBatch, real
from npexp.callbacks.figures import Panel
from npexp.callbacks.parity import LEVELS, MOST_OUTPUTS, MOST_POINTS, Parity
from npexp.columns import Columns
from npexp.likelihoods import Predictive
from npexp.scaling import Scaling

Example = Panel | list[Parity]


def predicted(trainer: Trainer, pl_module: LightningModule, task: Any) -> Example:
    """One of the datamodule's `PlotTask`s and what the module predicts for it, in raw units where it knows them.

    Every process must call it: a model in parts, each on another device, computes on all of them together.
    """
    law = _predict(trainer, pl_module, task.batch)
    if task.kind != "parity":
        return panel(task, law)
    scaling = None if pl_module.scaling is None else Scaling(**pl_module.scaling)
    columns = None if pl_module.columns is None else Columns.make(pl_module.columns)
    return parities(task.batch, law, scaling, columns)


def panel(task: Any, law: Predictive) -> Panel:
    """A curve or an image.

    Args:
        task: one of the datamodule's `PlotTask`s.
        law: what is predicted at its targets.
    """
    batch, mask = task.batch, None if task.batch.mask_c is None else task.batch.mask_c[0]
    xc, yc = (points[0] if mask is None else points[0][mask] for points in (batch.xc, batch.yc))
    values = (xc, yc, *(v if v is None else v[0] for v in (batch.xt, batch.yt, law.mean, law.stddev)))
    known = (v if v is None else v[0] for v in (task.truth, task.mean, task.stddev))
    return Panel(*map(_array, (*values, *known)), image_shape=task.image_shape)


def parities(batch: TaskBatch, law: Predictive, scaling: Scaling | None, columns: Columns | None) -> list[Parity]:
    """The first outputs of a task, at targets spread over the real ones.

    Args:
        batch: a single task, `b` = 1.
        law: what is predicted at its targets.
        scaling: from raw units; None where they are not known, or where the batch has them.
        columns: of the table that the task comes from.
    """
    mask = real(batch.mask_t, batch.yt)[0].cpu()
    quantities = torch.cat([law.mean, *law.quantile(LEVELS)]).detach().cpu()
    values = torch.cat([batch.yt.cpu().to(quantities), quantities])[:, mask].double().numpy()
    if scaling is not None:
        values = scaling.y_shift + np.array(scaling.y_scale) * values
    if columns is not None:
        outputs = columns.split(batch.xt[0].cpu()[mask].numpy(), values)
    else:
        outputs = {f"y{i}": values[..., i] for i in range(values.shape[2])}
    size = f"{int(batch.num_context)} context points"
    found = []
    for name, output in list(outputs.items())[:MOST_OUTPUTS]:
        n = output.shape[1]
        spread = output[:, np.linspace(0, n - 1, min(n, MOST_POINTS)).astype(int)]
        found.append(Parity(size if columns is None and len(outputs) == 1 else f"{name}: {size}", *spread))
    return found


def _array(values: Tensor | None) -> np.ndarray | None:
    return None if values is None else values.detach().cpu().double().numpy()


def _predict(trainer: Trainer, pl_module: LightningModule, batch: TaskBatch) -> Predictive:
    """What the module's `net`, in eval mode, predicts in the precision of the run.

    The batch comes from none of the trainer's loaders, so the trainer has not converted it.
    """
    batch = TaskBatch(*(v if v is None else v.to(pl_module.device) for v in batch))
    batch = trainer.precision_plugin.convert_input(batch)
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        return pl_module.net(batch.xc, batch.yc, batch.xt, batch.mask_c, batch.mask_t)
