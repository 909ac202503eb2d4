"""Run folders: `runs/<name>/<version>/` holds everything about one training run.

The command line is completed here, before anything heavy is imported: configurations become absolute paths, "last"
and "best" become checkpoint files, and the run gets its name and version. Processes that Lightning starts for
further devices execute the completed command line, so they agree with the first one on all of it.
"""

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, NamedTuple

from npexp.config import conf_dir, config_names, expand, find_config, read_config, setting
from npexp.errors import ConfigError, suggest

LABELS = {"model": "--model_name", "data": "--data_name"}
TABLE = {"data": "data/frame", "model": "model/rmnp_hybrid", "both": "experiment/frame_rmnp_hybrid"}


class Run(NamedTuple):
    """One run folder.

    Args:
        root: the folder of all runs.
        name: what is run, e.g. "gp_rbf_cmanp"; may hold slashes.
        version: which attempt, from 0.
    """

    root: Path
    name: str
    version: int

    @property
    def folder(self) -> Path:
        """Where the run keeps its files."""
        return self.root / self.name / str(self.version)

    @property
    def config(self) -> Path:
        """The full configuration of the run."""
        return self.folder / "config.yaml"

    def checkpoint(self, name: str) -> Path:
        """The file of the checkpoint "last" or "best"."""
        return self.folder / "checkpoints" / f"{name}.ckpt"


class Start(NamedTuple):
    """What a training command is about to do.

    Args:
        words: its completed arguments.
        run: the run it works in.
        continues: whether that run exists already and is meant to be gone on with.
    """

    words: list[str]
    run: Run
    continues: bool


class Arguments:
    """Command-line words as `(option, value)` pairs, keeping what is not understood as it stands."""

    def __init__(self, words: Sequence[str]):
        self.words = list(words)

    def pairs(self) -> Iterator[tuple[str, str, slice]]:
        """Option, value, and the words that both stand in."""
        for i, word in enumerate(self.words):
            key, equals, value = word.partition("=")
            if equals:
                yield key, value, slice(i, i + 1)
            elif i + 1 < len(self.words):
                yield key, self.words[i + 1], slice(i, i + 2)

    def all(self, *options: str) -> list[str]:
        """Every value given for these options, in order."""
        return [value for key, value, _ in self.pairs() if key in options]

    def last(self, option: str) -> str | None:
        """The value that counts, or None."""
        return next(reversed(self.all(option)), None)

    def without(self, *options: str) -> list[str]:
        """The words less these options and their values."""
        gone = {i for key, _, where in self.pairs() if key in options for i in range(where.start, where.stop)}
        return [word for i, word in enumerate(self.words) if i not in gone]


def complete(command: str, words: Sequence[str], base: str = "base") -> Start:
    """Completes the arguments of `fit`, `validate` or `test`.

    Args:
        command: what to do with the run.
        words: the arguments as typed.
        base: the configuration below all others.

    Raises:
        ConfigError: no configuration, no such run or checkpoint, or a version that is taken.
        UnknownNameError: an unknown configuration.
    """
    args = Arguments(words)
    asked = args.all("--config", "-c")
    layers = expand(asked)
    table = brings_table(args, layers)
    root = Path(args.last("--runs_dir") or setting("runs_dir", layers) or "runs").resolve()
    name = args.last("--name") or setting("name", layers) or (table and table_name(args)) or default_name(asked)
    version = _number(args.last("--version"))
    if name is not None and (Path(name).is_absolute() or ".." in Path(name).parts):
        raise ConfigError(f"expected a run name such as 'gp_rbf' or 'study/trial_3', got '{name}'")

    # Nobody means to test a model that was never trained; `--ckpt_path null` asks for it.
    needs_none = command == "fit" or only_prints(words)
    wanted = args.last("--ckpt_path") or ("null" if needs_none else "best")
    checkpoint, origin = find_checkpoint(wanted, root, name, version, "last" if command == "fit" else "best")
    own = own_config(origin)
    if not asked and own is not None:
        asked = [str(own)]
    elif table:
        asked = with_table(asked, args, layers)
    elif not asked and not args.all("--model", "--model.net", "--data"):
        if origin is not None and origin.config.is_file():
            raise ConfigError(f"{origin.config} is damaged: give the --config that the run was started with")
        near = ", ".join(config_names("experiment")[:4])
        hint = f", for example {near}" if near else ""
        raise ConfigError(f"{command} needs --config EXPERIMENT{hint}; or a table of yours, --data.path FILE.csv")

    continues = origin is not None and name in (None, origin.name) and version in (None, origin.version)
    run = origin if continues else _new(root, name or (origin.name if origin else "run"), version)
    rest = args.without("--config", "-c", "--ckpt_path", "--name", "--version", "--runs_dir", *LABELS.values())
    below = [] if expand(asked)[:1] == [find_config(base)] else [base]
    layers = expand([*below, *asked])
    # A checkpoint's settings of the model win over all others, so its run says what the model is called.
    trained = layers if own is None else [own]
    labels = {"model": label("model", trained), "data": label("data", layers)}
    done = [word for path in layers for word in ("--config", str(path))] + rest
    for group, found in labels.items():
        if chosen := args.last(LABELS[group]) or found:
            done.append(f"{LABELS[group]}={chosen}")
    if checkpoint is not None:
        done.append(f"--ckpt_path={checkpoint}")
    done += [f"--runs_dir={run.root}", f"--name={run.name}", f"--version={run.version}"]
    return Start(done, run, continues)


def own_config(run: Run | None) -> Path | None:
    """The configuration that a run keeps; None where it is missing, empty or damaged."""
    if run is not None and run.config.is_file():
        with suppress(ConfigError):
            return run.config if read_config(run.config) else None
    return None


def brings_table(args: Arguments, layers: Sequence[Path]) -> bool:
    """Whether data are described by options such as `--data.path` alone: then they are a table of the user's own."""
    described = any(key.startswith("--data.") for key, _, _ in args.pairs())
    named = args.all("--data", "--data.class_path") or any("data" in read_config(path) for path in layers)
    return described and not named


def with_table(asked: list[str], args: Arguments, layers: Sequence[Path]) -> list[str]:
    """The configurations for such a table: RMNPHybrid's unless another model is named."""
    has_model = args.all("--model", "--model.net")
    has_model = has_model or any("net" in (read_config(path).get("model") or {}) for path in layers)
    if not asked and not has_model:
        return [TABLE["both"]]
    return [*([] if has_model else [TABLE["model"]]), TABLE["data"], *asked]


def table_name(args: Arguments) -> str | None:
    """What a run on such a table is called: its file."""
    path = args.last("--data.path")
    return Path(path).stem if path else None


def label(group: str, layers: Sequence[Path]) -> str | None:
    """What results call the model or the data: the name of its shipped configuration, or None.

    Args:
        group: "model" or "data".
        layers: the configurations, lowest first; that of a finished run holds the names it was trained under.
    """
    home, found = conf_dir().resolve() / group, None
    for path in layers:
        if path.is_relative_to(home):
            found = path.relative_to(home).with_suffix("").as_posix()
        else:
            found = read_config(path).get(f"{group}_name") or found
    return found


def default_name(configs: Sequence[str]) -> str | None:
    """What a run is called when nobody says: its configuration, or the data and the model that were put together."""
    paths = [Path(name) for name in configs]
    parts = {group: path.stem for path in paths for group in ("model", "data") if group in path.parts[:-1]}
    if len(parts) == 2:
        return f"{parts['data']}_{parts['model']}"
    return Path(configs[-1]).stem if configs else None


def only_prints(words: Sequence[str]) -> bool:
    """Whether the arguments ask for help or for the merged configuration, and for no work."""
    keys = [word.partition("=")[0] for word in words]
    return any(key in ("-h", "--help", "--print_config") or key.endswith(".help") for key in keys)


def find_checkpoint(
    wanted: str, root: Path, name: str | None, version: int | None, default: str = "best"
) -> tuple[Path | None, Run | None]:
    """The checkpoint file that is meant, and the run it belongs to.

    Args:
        wanted: "last", "best", a checkpoint file, a run folder, or "null" for none.
        root: the folder of all runs.
        name: the run's name, for "last" and "best".
        version: the run's version; None is the newest.
        default: which checkpoint a run folder stands for.
    """
    if wanted in ("null", "None", "none", ""):
        return None, None
    if wanted in ("last", "best"):
        if name is None:
            raise ConfigError(f"--ckpt_path {wanted} needs a run: give --config or --name")
        if version is None:
            version = max(versions(root, name), default=None)
        if version is None:
            others = suggest(name, run_names(root)) if run_names(root) else "train one with npexp fit"
            raise ConfigError(f"there is no run '{name}' in {root}; {others}")
        run = Run(root, name, version)
        path = run.checkpoint(wanted)
        if not path.is_file():
            having = [v for v in versions(root, name) if Run(root, name, v).checkpoint(wanted).is_file()]
            hint = f"--version {having[-1]} has one" if having else _instead(path)
            raise ConfigError(f"{run.folder} has no {wanted}.ckpt; {hint}")
        return path, run
    path = checkpoint_at(wanted, default)
    return path, _owner(path, root)


def checkpoint_at(place: str | Path, default: str = "best") -> Path:
    """The checkpoint file that a path stands for.

    Args:
        place: a checkpoint file, or a run folder, with its version or without it for the newest.
        default: which checkpoint a run folder stands for.

    Raises:
        ConfigError: there is none.
    """
    path = newest(place)
    if not path.is_dir():
        if path.is_file():
            return path
        raise ConfigError(f"there is no checkpoint {path}: give a .ckpt file or a run folder such as runs/gp_rbf/0")
    file = path / "checkpoints" / f"{default}.ckpt"
    if not file.is_file():
        raise ConfigError(f"{path} has no checkpoint {default}.ckpt; {_instead(file)}")
    return file


def newest(place: str | Path) -> Path:
    """The folder of a run's newest version, where a path leaves the version out; any other path as it is."""
    path = Path(place).resolve()
    if path.is_dir() and not (path / "config.yaml").is_file() and not (path / "checkpoints").is_dir():
        return path / str(max(versions(path.parent, path.name), default=""))
    return path


def _instead(missing: Path) -> str:
    """What to do about a checkpoint that a run does not have."""
    last = missing.with_name("last.ckpt")
    return f"the run was never validated: use --ckpt_path {last}" if last.is_file() else "train first with npexp fit"


def _owner(checkpoint: Path, root: Path) -> Run | None:
    """The run that wrote a checkpoint file, or None for a file that lies elsewhere."""
    folder = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not folder.name.isdigit() or not (folder / "config.yaml").is_file():
        return None
    # Inside the folder of all runs the name is the whole path to the version; elsewhere it is the last folder.
    home = root if root in folder.parents[1:] else folder.parents[1]
    return Run(home, folder.parent.relative_to(home).as_posix(), int(folder.name))


def versions(root: Path, name: str) -> list[int]:
    """The versions of a run, ascending."""
    home = root / name
    return sorted(int(p.name) for p in home.iterdir() if p.name.isdigit() and p.is_dir()) if home.is_dir() else []


def run_names(root: Path) -> list[str]:
    """The names of all runs, sorted."""
    return sorted({p.parents[1].relative_to(root).as_posix() for p in root.glob("**/[0-9]*/config.yaml")})


def _number(version: str | None) -> int | None:
    if version is None or version in ("null", "None"):
        return None
    if not version.isdigit():
        raise ConfigError(f"expected --version to be a whole number from 0, got '{version}'")
    return int(version)


def _new(root: Path, name: str, version: int | None) -> Run:
    # torchrun and srun start every process by themselves, so they cannot agree on the next free number.
    launched = "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    if version is None and launched:
        raise ConfigError("several processes were started from outside: give them all the same --version")
    if version is None:
        version = max(versions(root, name), default=-1) + 1
    return Run(root, name, version)


def process_rank() -> int:
    """This process's rank among those that torchrun, SLURM or Lightning started; 0 where nothing did."""
    # Lightning names only the rank on this machine; its first process has none, the others are above 0.
    return next((int(os.environ[name]) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0)


def reserve(run: Run) -> bool:
    """Makes the folder of a new run, so that a second command started now takes the next version.

    Returns:
        Whether the folder is new.

    Raises:
        ConfigError: another run lives there, or the folder cannot be made.
    """
    if process_rank() > 0:
        return False
    try:
        run.folder.mkdir(parents=True)
        return True
    except OSError as error:
        if not run.folder.is_dir():
            reason = error.strerror or error
            raise ConfigError(f"cannot make the run folder {run.folder} ({reason}): give another --runs_dir") from error
    if any(run.folder.iterdir()):
        way = (
            "continue it with --ckpt_path last"
            if run.checkpoint("last").is_file()
            else "delete it, as it has no last.ckpt"
        )
        raise ConfigError(f"{run.folder} holds a run already: {way}, or leave out --version")
    return False


def revision() -> str | None:
    """The git commit of the code, with "-dirty" after it when files were changed; None outside a checkout."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        # An installed copy may lie inside a repository of something else.
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def package_versions(names: Sequence[str] = ("npexp", "torch", "lightning", "gpytorch", "numpy")) -> dict[str, Any]:
    """The versions a result depends on, Python's first."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = package_version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
