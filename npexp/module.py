"""The one LightningModule: any neural process, any objective, one way to train and to score."""

from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from npexp.batch import TaskBatch, real
from npexp.errors import ConfigError, at_least
from npexp.likelihoods import Decoding, Predictive
from npexp.metrics import Evaluation
from npexp.models.base import NeuralProcess
from npexp.objectives import OBJECTIVES, Loss, refusal
from npexp.scaling import Scaling

ADAPT_BATCHES = 8  # training batches whose inputs a model may look at before the first step


class NPModule(LightningModule):
    """Trains and scores a neural process.

    Args:
        net: the model.
        objective: "loglik"; for latent-variable models also "elbo" and "importance_weighted", for bootstrapping ones
            "bootstrap", for causal ones "sequence".
        num_samples: draws of the latent, or bootstraps of the context, per training step.
        include_context: trains on context points as targets too, as the CNP and NP families are published.
        decoding: how validation and test predict, e.g. target by target; None as the model does by itself.
        train_chunk_size: conditions on that many points at a time in training, too, and computes them again in the
            backward pass: memory does not grow with the context, and a step takes about a third longer. See
            `NeuralProcess.train_chunk_size`; None as the model does by itself.
        energy_score: whether tests measure it too, which takes 64 draws of every task: slow for autoregressive laws.
        optimizer: makes the optimiser from the parameters.
        lr_scheduler: makes the schedule from the optimiser; stepped once per training step.

    Attributes:
        test_results: after testing, metric name to value, e.g. "test/loglik_joint" and "test/loglik_joint_sem".
        test_tasks: after testing, for each test set the scores of its tasks, see `npexp.metrics.Evaluation.task_table`.
        scaling: what the datamodule has done to raw values, see `npexp.scaling.Scaling`; None where nothing.
        columns: what the columns of its table mean, see `npexp.columns.Columns`; None where there is no table.

    Raises:
        ConfigError: an objective for another kind of model, or chunks in training of a model that cannot.
    """

    def __init__(
        self,
        net: NeuralProcess,
        objective: Literal["loglik", "elbo", "importance_weighted", "bootstrap", "sequence"] = "loglik",
        num_samples: int = 4,
        include_context: bool = False,
        decoding: Decoding | None = None,
        train_chunk_size: int | None = None,
        energy_score: bool = True,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ):
        super().__init__()
        if why := refusal(net, objective):
            raise ConfigError(why)
        at_least("num_samples", num_samples, 1)
        if train_chunk_size is not None:
            net.train_chunk_size = train_chunk_size
        # A checkpoint is plain data from which the model can be rebuilt: the command line hands its parsed settings
        # over by itself, `npexp.build` leaves the description of the model on it.
        if net.spec is None:
            self.save_hyperparameters(ignore=["decoding", "energy_score"])  # what a test does, not what the model is
        else:
            self.save_hyperparameters({"net": net.spec})
        self.net = net
        self.objective, self.num_samples, self.include_context = objective, num_samples, include_context
        self.decoding, self.energy_score = decoding, energy_score
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.val_metrics = Evaluation(energy=False)
        self.test_metrics = nn.ModuleList()
        self.test_results: dict[str, float] = {}
        self.test_tasks: dict[str, dict[str, np.ndarray]] = {}
        self.scaling: dict[str, list[float]] | None = None
        self.columns: dict[str, Any] | None = None
        self._micro_batches: list[torch.Tensor] = []  # losses of those that the current step has had, if it is logged
        self._norm: torch.Tensor | None = None  # of the current step's gradient, once somebody has asked

    def __deepcopy__(self, memo: dict[int, Any]) -> "NPModule":
        """Copies all but what makes optimisers: the command line's knows the parser, the trainer and its processes."""
        memo.update({id(shared): shared for shared in (self.optimizer, self.lr_scheduler)})
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(deepcopy(self.__getstate__(), memo))
        return copied

    def forward(self, batch: TaskBatch) -> Predictive:
        """Predicts a batch's targets from its context."""
        if self.decoding is not None:
            state = self.net.encode(batch.xc, batch.yc, batch.mask_c)
            return self.net.chain(state, batch.xt, batch.mask_t, self.decoding)
        return self.net(batch.xc, batch.yc, batch.xt, batch.mask_c, batch.mask_t)

    def configure_optimizers(self) -> Any:
        """The optimiser, and its schedule stepped once per training step."""
        optimizer = self.optimizer(self.net.parameters())
        if self.lr_scheduler is None:
            return optimizer
        return [optimizer], [{"scheduler": self.lr_scheduler(optimizer), "interval": "step"}]

    def gradient_norm(self) -> torch.Tensor:
        """The norm of the gradient of the step about to be taken, before it is clipped; computed once per step.

        Of a sharded model it is the norm of this process's share.
        """
        if self._norm is None:
            self._norm = nn.utils.get_total_norm([p.grad for p in self.net.parameters() if p.grad is not None])
        return self._norm

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: int | float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips as the trainer says, also for fused optimisers in bfloat16 and for sharded models.

        Lightning refuses the former in any mixed precision, though float16 alone scales its gradients, and the latter
        as no process has the whole gradient.
        """
        root = self.trainer.strategy.model
        if not gradient_clip_val:
            pass
        elif scales(self.trainer):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.net.parameters(), gradient_clip_val)
        elif isinstance(root, FullyShardedDataParallel):
            root.clip_grad_norm_(gradient_clip_val)
        else:
            nn.utils.clip_grads_with_norm_(self.net.parameters(), gradient_clip_val, self.gradient_norm())
        self._norm = None

    def on_fit_start(self) -> None:
        """Takes note of what the datamodule does to raw values, for the checkpoint; shows the model some inputs."""
        self._norm = None
        data = self.trainer.datamodule
        if data is not None:
            self.scaling, self.columns = getattr(data, "scaling", None), getattr(data, "columns", None)
        asks = type(self.net).adapt is not NeuralProcess.adapt
        if asks and hasattr(data, "make_batch"):  # the same tasks in every process and after every resumption
            seen = [data.make_batch("train", i) for i in range(ADAPT_BATCHES)]
            self.net.adapt(
                torch.cat(
                    [
                        torch.cat([b.xc, b.xt], 1)[torch.cat([real(b.mask_c, b.xc), real(b.mask_t, b.xt)], 1)]
                        for b in seen
                    ]
                )
            )
        if self.scaling is not None:
            self.scaling = Scaling.make(self.scaling, self.net.dx, self.net.dy)._asdict()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the scaling and the columns, plain data."""
        checkpoint["scaling"], checkpoint["columns"] = self.scaling, self.columns

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the scaling and the columns."""
        self.scaling, self.columns = checkpoint.get("scaling"), checkpoint.get("columns")

    def on_before_batch_transfer(self, batch: TaskBatch, dataloader_idx: int) -> TaskBatch:
        """Refuses bad values while they are still cheap to look at, on the host."""
        return batch.check()

    def loss(self, batch: TaskBatch) -> Loss:
        """What training minimises, on one micro-batch."""
        return OBJECTIVES[self.objective](self.net, batch, self.num_samples, self.include_context)

    def training_step(self, batch: TaskBatch, batch_idx: int) -> torch.Tensor:
        """One step of the objective."""
        loss = self.loss(batch)
        if logs_now(self.trainer):
            self._log_step({"loss": loss.total.detach(), **loss.parts}, batch_idx)
        return loss.total

    def _log_step(self, values: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Logs the means over all micro-batches of a step, on all processes, with the last of them."""
        trainer = self.trainer
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._micro_batches = []
        self._micro_batches.append(torch.stack(list(values.values())))
        if not trainer.fit_loop._should_accumulate():
            means = trainer.strategy.reduce(torch.stack(self._micro_batches).mean(0), reduce_op="mean")
            self.log_dict({f"train/{name}": mean for name, mean in zip(values, means, strict=True)})

    def on_validation_start(self) -> None:
        """Refuses a table that is scaled otherwise than the one of the checkpoint."""
        self._check_units()

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """Scores a batch."""
        self.val_metrics.update(self(batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Logs every metric; the metric has summed over processes itself."""
        values = {f"val/{name}": value for name, value in self.val_metrics.compute().items()}
        self.val_metrics.reset()
        self.log_dict(values, rank_zero_only=False)
        self.log("loglik", values["val/loglik_joint"], prog_bar=True, logger=False)

    def on_test_start(self) -> None:
        """One evaluation per test set."""
        self._check_units()
        kept = (Evaluation(self.energy_score, keep_tasks=True) for _ in self.test_names)
        self.test_metrics = nn.ModuleList(kept).to(self.device)

    def test_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores a batch of one of the test sets."""
        number = batch_idx * self.trainer.world_size + self.trainer.global_rank
        self.test_metrics[dataloader_idx].update(self(batch), batch, number)

    def on_test_epoch_end(self) -> None:
        """Logs and keeps every metric of every test set."""
        self.test_results = {
            f"{name}/{key}": value
            for name, metrics in zip(self.test_names, self.test_metrics, strict=True)
            for key, value in metrics.compute().items()
        }
        self.test_tasks = {
            name: metrics.task_table() for name, metrics in zip(self.test_names, self.test_metrics, strict=True)
        }
        self.log_dict(self.test_results, rank_zero_only=False)

    def _check_units(self) -> None:
        data = self.trainer.datamodule
        ours, theirs = (self.columns, self.scaling), (getattr(data, "columns", None), getattr(data, "scaling", None))
        if None not in (ours[0], theirs[0]) and ours != theirs:
            raise ConfigError(
                "the table is divided or scaled otherwise than the one this run was trained on: give that one and its "
                "settings, or use npexp predict for new data"
            )

    @property
    def test_names(self) -> tuple[str, ...]:
        """Names of the test sets, the in-distribution one first."""
        return tuple(getattr(self.trainer.datamodule, "test_names", ("test",)))


def scales(trainer: Trainer) -> bool:
    """Whether losses are scaled, as in float16."""
    plugin = trainer.precision_plugin
    return isinstance(plugin, MixedPrecision) and plugin.scaler is not None


def logs_now(trainer: Trainer) -> bool:
    """Whether Lightning logs the training step that is being taken."""
    every = trainer.log_every_n_steps
    return every > 0 and (trainer.global_step + 1) % every == 0
