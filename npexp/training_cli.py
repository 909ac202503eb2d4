"""`npexp fit | validate | test`: Lightning's command line around `NPModule` and a datamodule.

Imported by the dispatcher only when one of these commands runs: this is where seconds of imports are.
"""

import errno
import importlib
import logging
import os
import pkgutil
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import datamodules
import npexp.mixers
import npexp.models
from datamodules.base import NPDataModule
from npexp.callbacks.board import Figures
from npexp.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from npexp.callbacks.clock import RunClock, accumulation
from npexp.callbacks.divergence import Divergence
from npexp.callbacks.interruption import Interruption
from npexp.callbacks.measurements import Measurements
from npexp.callbacks.progress import RunProgress
from npexp.callbacks.rate import NewRate
from npexp.callbacks.results import Overview, TestReport
from npexp.callbacks.seeding import StepSeed
from npexp.callbacks.trial import Trial
from npexp.cli_errors import explain
from npexp.config import flatten
from npexp.errors import ConfigError, LostProcessError, NPError, StorageError
from npexp.exchange import TRIAL
from npexp.facts import class_name, device_name, result_name, summary
from npexp.files import shown, whole_file
from npexp.loggers import Board, MetricsFile
from npexp.module import NPModule
from npexp.processes import announce_losses, is_launched, lost, lost_contact
from npexp.resume import checkpoint_steps, go_on
from npexp.runs import Arguments, Run, package_versions, revision

RATE = "--model.optimizer.init_args.lr", "--model.optimizer.lr"
FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS  # what a disk says, and never a mistake in what was asked
IRRELEVANT_WARNINGS = (
    r".*does not have many workers which may be a bottleneck.*",  # tasks are made faster than they are used
    r".*Checkpoint directory .* exists and is not empty.*",  # a resumed run, or the test of one
    r".*The number of training batches .* is smaller than the logging interval.*",  # logging counts through epochs
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # inside Lightning
    r".*It is recommended to use `self.log\('(val|test|loglik).*sync_dist=True.*",  # they sum over processes
    r".*You have overridden `on_before_batch_transfer`.*",  # so that batches are checked whoever makes them
    r".*WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",  # the average is what is tested
)


class Parser(LightningArgumentParser):
    """A parser that explains a mistake in one or two lines."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Prints the mistake with the nearest known names and exits with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"npexp: {explain(message, getattr(ex, 'subcommand_parser', None) or self)}\n")
        self.exit(2)


class SaveRunConfig(SaveConfigCallback):
    """Writes `config.yaml` when training starts; testing leaves it alone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the full configuration, less what belongs to this one start: where, and resumed from what."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        config = self.config.clone()
        config.defaults, config.version, config.ckpt_path, config.runs_dir = [], None, None, "runs"
        with whole_file(run_of(config=self.config).config) as file:
            file.write(self.parser.dump(config, skip_none=False))


class CLI(LightningCLI):
    """The arguments of training and testing, and how they become a trainer.

    Args:
        command: what was typed, for the record.
        **kwargs: see `LightningCLI`.
    """

    def __init__(self, *args: Any, command: Sequence[str] = (), **kwargs: Any):
        self.command = shlex.join(["npexp", *command])
        self.typed = Arguments(command)
        self.new_rate: float | None = None  # instead of a checkpoint's
        super().__init__(*args, **kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, and the arguments of the trainer's methods that are none of the command line's business."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": {"model", "dataloaders", "datamodule", "verbose", "weights_only"},
            "test": {"model", "dataloaders", "datamodule", "verbose", "weights_only"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run's place and the callbacks that every run has."""
        parser.add_argument("--defaults", type=list[str], default=[], help="Configurations below this file.")
        parser.add_argument("--name", type=str, default="run", help="Name of the run: its folder below runs_dir.")
        parser.add_argument("--version", type=int | None, help="Version of the run; null takes the next free one.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="The folder of all runs.")
        parser.add_argument("--model_name", type=str | None, help="What results call the model; null for its class.")
        parser.add_argument("--data_name", type=str | None, help="What results call the data; null for its class.")
        parser.add_argument(
            "--global_batch_size",
            type=int | None,
            help="Tasks per training step over all processes: each adds up gradients of as many batches of "
            "data.batch_size as that takes. The run is then the same on any number of processes; null: one batch each.",
        )
        for size in ("dx", "dy"):
            parser.link_arguments(f"data.{size}", f"model.net.init_args.{size}", apply_on="instantiate")
        parser.add_lightning_class_args(StepSeed, "step_seed")
        parser.link_arguments("seed_everything", "step_seed.seed")
        parser.add_lightning_class_args(Figures, "figures")
        # `best` before `last`: the newest checkpoint then knows the newest best score.
        parser.add_lightning_class_args(BestCheckpoint, "best")
        parser.add_lightning_class_args(LastCheckpoint, "last")

    def _parse_ckpt_path(self) -> None:
        """Takes the model's settings from the checkpoint, and says so where they differ from those given.

        A learning rate that was typed stays: a run that diverged goes on with a lower one.
        """
        if not self.config.get("subcommand"):
            return
        checkpoint = self.config[self.config.subcommand].get("ckpt_path")
        checkpoint_steps(checkpoint)  # refuses what is no checkpoint
        if checkpoint and self.config.subcommand == "fit" and self.typed.all(*RATE):
            self.new_rate = self.config.fit.model.optimizer.init_args.lr
        given = self.parser.dump(self.config, skip_none=False)
        super()._parse_ckpt_path()
        if self.new_rate is not None:
            self.config.fit.model.optimizer.init_args.lr = self.new_rate
        before, after = (
            flatten(yaml.safe_load(dump)[self.config.subcommand]["model"])
            for dump in (given, self.parser.dump(self.config, skip_none=False))
        )
        changed = [k for k in before if k in after and before[k] != after[k]]
        for key in ("net.class_path", "net.init_args.mixer"):
            if key in changed:
                raise ConfigError(
                    f"the checkpoint holds another model: {key.rpartition('.')[2]} {after[key]}, not {before[key]}; "
                    "give the --ckpt_path or --version of the run that is meant"
                )
        if changed:
            some = ", ".join(f"model.{k}={after[k]} (not {before[k]})" for k in changed[:4])
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            rank_zero_only(print)(f"npexp: warning: the checkpoint's settings win: {some}{more}", file=sys.stderr)

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; a refusal of one of ours is found again under what the parser made of it."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            refusal: BaseException | None = error
            while refusal is not None and not isinstance(refusal, NPError):
                refusal = refusal.__cause__ or refusal.__context__
            raise (refusal or error) from None if refusal else error.__cause__

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer of this run: its folder, its loggers and the callbacks without settings."""
        if self.subcommand is None:
            return super().instantiate_trainer(logger=False, **kwargs)
        config = self.config[self.subcommand]
        run = run_of(config)
        checkpoint = config.get("ckpt_path")
        steps = checkpoint_steps(checkpoint)
        text, facts = self._describe(config, steps)
        own: list[Logger] = []
        if self.subcommand == "fit":
            resume = steps if checkpoint else None
            own = [Board(run.root, run.name, run.version, resume), MetricsFile(run.folder / "metrics.csv", resume)]
        elif self.subcommand == "test":
            own = [Board(run.root, run.name, run.version, at_step=steps)]
        settings = self._get(self.config_init, "trainer")
        chosen = settings.get("logger")
        if chosen is False:
            own = []
        elif chosen is not None and chosen is not True:
            own += list(chosen) if isinstance(chosen, (list, tuple)) else [chosen]
        callbacks: list[Callback] = [Measurements(), RunClock(), Overview(summary(facts, config), text)]
        if self.subcommand == "fit":
            callbacks += [Trial(run.folder)] if TRIAL in os.environ else []
            callbacks += [Divergence(), Interruption(), *([] if self.new_rate is None else [NewRate(self.new_rate)])]
        else:
            warnings.filterwarnings("ignore", r".*callbacks used to create the checkpoint need to be provided.*")
            callbacks.append(TestReport(run.folder, facts, config.figures.num_tasks))
        if settings.get("enable_progress_bar") is not False:
            callbacks.append(RunProgress())
        every = validation_interval(settings)
        try:
            trainer = super().instantiate_trainer(
                logger=own or False,
                default_root_dir=str(run.folder),
                callbacks=[*(settings.get("callbacks") or []), *callbacks],
                val_check_interval=every,
                **kwargs,
            )
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(f"the trainer refuses its settings: {' '.join(str(error).split())}") from error
        except KeyError as error:  # what SLURM tells the processes that it starts
            raise ConfigError(f"{error} is not set: trainer/slurm is for jobs started with srun") from error
        if self.subcommand == "fit" and config.global_batch_size is not None:
            trainer.accumulate_grad_batches = accumulation(
                config.global_batch_size,
                self.datamodule.batch_size,
                trainer.world_size,
                settings["accumulate_grad_batches"],
            )
        rank_zero_only(print)(
            f"{facts['model']} with {facts['parameters']:,} parameters on {facts['data']}; folder {shown(run.folder)}"
        )
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        return kwargs if subcommand == "fit" else {**kwargs, "verbose": False}  # our table has error bars

    def _describe(self, config: Namespace, steps: int) -> tuple[str, dict[str, Any]]:
        """The run as Markdown for people, and as flat facts for programs."""
        mixer = config.model.net.get("init_args.mixer")
        facts = {
            "name": config.name,
            "model": result_name(config.model_name, "model", config.model.net),
            "model_class": class_name(config.model.net),
            **({} if mixer is None else {"mixer": class_name(mixer)}),
            **({} if config.model.decoding is None else {"decoding": _words(config.model.decoding)}),
            "likelihood": "joint" if self.model.net.traits["joint"] or config.model.decoding else "factorised",
            "dy": self.model.net.dy,
            "data": result_name(config.data_name, "data", config.data),
            "data_class": class_name(config.data),
            "seed": config.seed_everything,
            "steps": steps,
            "parameters": sum(p.numel() for p in self.model.net.parameters()),
            "revision": revision(),
            "versions": ", ".join(f"{name} {version}" for name, version in package_versions().items()),
            "device": device_name(config.trainer.accelerator),
            "command": self.command,
        }
        lines = [f"* **{key}**: {facts[key]}" for key in ("revision", "versions", "device", "parameters", "command")]
        dump = self._parser(self.subcommand).dump(config, skip_none=False)
        return "\n".join([*lines, "", "```yaml", dump.strip(), "```"]), facts


def _words(settings: Namespace) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def run_of(config: Namespace) -> Run:
    """The run that a parsed command works in."""
    return Run(Path(config.runs_dir).resolve(), config.name, config.version or 0)


def validation_interval(settings: Namespace | dict[str, Any]) -> int | float | None:
    """Steps between two validations: as set, or a twentieth of the run but no fewer than 100.

    Raises:
        ConfigError: the run would end before its first validation, and leave no best checkpoint.
    """
    every, steps = settings["val_check_interval"], settings["max_steps"]
    in_steps = settings["check_val_every_n_epoch"] is None
    if every is None and in_steps and steps > 0:
        return min(steps, max(100, steps // 20))
    if in_steps and isinstance(every, int) and 0 < steps < every and not settings["fast_dev_run"]:
        raise ConfigError(
            f"trainer.max_steps={steps} ends the run before its first validation: lower trainer.val_check_interval="
            f"{every}, or set it to null for twenty validations per run"
        )
    return every


def quiet() -> None:
    """Hides Lightning's advice and warnings that mean nothing here; everything else stays."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", message)


def import_all(package: Any) -> None:
    """Imports every module of a package, so that its classes can be named without their path."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def make_cli(**kwargs: Any) -> CLI:
    """The command line over `sys.argv`; `run=False, args=[...]` only builds, for notebooks, and writes nothing."""
    quiet()
    for package in (npexp.models, npexp.mixers, datamodules):
        import_all(package)
    usages = {
        name: {"usage": f"npexp {name} --config NAME_OR_FILE ... [--OPTION=VALUE ...]"} for name in CLI.subcommands()
    }
    return CLI(
        NPModule,
        NPDataModule,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=SaveRunConfig if kwargs.get("run", True) else None,
        parser_class=Parser,
        parser_kwargs={"allow_abbrev": False, "prog": "npexp", **usages},
        seed_everything_default=0,
        **kwargs,
    )


def run_command(typed: Sequence[str]) -> None:
    """Runs the command in `sys.argv`.

    Args:
        typed: the arguments before they were completed.

    Raises:
        StorageError: a file cannot be written.
        LostProcessError: another process of the run has died.
    """
    announce_losses(way_on)
    try:
        make_cli(command=typed)
    except OSError as error:
        if isinstance(error, StorageError):
            what = str(error)
        elif error.errno in FULL and not isinstance(error, NPError):
            what = f"cannot write ({error.strerror}): make room"
        else:
            raise
        raise StorageError(f"{what}, then {way_on()}") from error
    except RuntimeError as error:
        if not lost_contact(error):
            raise
        if is_launched():
            raise SystemExit(LostProcessError.status) from error  # the first process says it
        raise LostProcessError(lost(way_on())) from error


def way_on() -> str:
    """What to do when the machine has failed the command in `sys.argv`."""
    args = Arguments(sys.argv)
    if sys.argv[1] != "fit":
        return "give the command again"
    return go_on(Run(Path(args.last("--runs_dir")), args.last("--name"), int(args.last("--version"))).folder)
