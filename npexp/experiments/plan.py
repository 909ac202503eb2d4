"""What a table is: a YAML file that names its rows, their seeds, and what is asked and found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from npexp.config import conf_dir, construct, find_config, read_config
from npexp.errors import ConfigError, UnknownNameError

Settings = dict[str, int | float | bool | str | list | dict | None]


@dataclass
class Row:
    """A row: what is trained and tested with each seed.

    Args:
        configs: names or files, layered as `npexp fit` layers them.
        fit: options of the training, above those of the table.
        test: options of the test, above those of the table.
        seeds: of weights and batches, in place of the table's.

    Raises:
        UnknownNameError: no such configuration.
    """

    configs: list[str]
    fit: Settings = field(default_factory=dict)
    test: Settings = field(default_factory=dict)
    seeds: list[int] | None = None

    def __post_init__(self) -> None:
        for name in self.configs:
            find_config(name)


@dataclass
class Plan:
    """A table as its YAML file describes it: rows of trainings, or commands that make one of another kind.

    Texts are Markdown. `{row.column}` in `shows` and `failed` stands for a number of the table, see
    `npexp.experiments.page`.

    Args:
        chapter: its number in `docs/experiments.md`.
        title: of the chapter.
        question: what the table is to decide.
        protocol: data, training and test.
        rows: by the name that the table has for them.
        fit: options that all trainings share.
        test: options that all tests share.
        seeds: of each row that names no others.
        commands: what to execute from the checkout's root, in turn, instead of rows; each goes on where it was.
        pages: what these have written, Markdown files under the folder of results, in the order of the chapter.
        figures: pictures there, after the pages.
        shows: what the table says.
        failed: what did not work, or was not done.

    Raises:
        ConfigError: neither rows nor commands, or both.
    """

    chapter: int
    title: str
    question: str
    protocol: str
    rows: dict[str, Row] = field(default_factory=dict)
    fit: Settings = field(default_factory=dict)
    test: Settings = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    commands: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    shows: str = ""
    failed: str = ""

    def __post_init__(self) -> None:
        if bool(self.rows) == bool(self.commands):
            raise ConfigError("expected either rows or commands: a table is made of trainings, or by scripts")
        if any("/" in name for name in self.rows):
            raise ConfigError(f"expected names of rows without '/', for they are folders, got {list(self.rows)}")


class Cell(NamedTuple):
    """A row with one of its seeds.

    Args:
        table: the table's name.
        row: the row's.
        seed: of its training.
        configs: of the training.
        fit: options of the training.
        test: options of the test.
    """

    table: str
    row: str
    seed: int
    configs: Sequence[str]
    fit: Settings
    test: Settings

    @property
    def place(self) -> Path:
        """Its folder, below that of runs as below that of results."""
        return Path(self.table, self.row, str(self.seed))

    def __str__(self) -> str:
        return f"{self.row}, seed {self.seed}"


def cells(plan: Plan, name: str) -> list[Cell]:
    """The cells of a table: first seeds first, so that early on each row has one."""
    found = [
        (rank, Cell(name, row, seed, its.configs, {**plan.fit, **its.fit}, {**plan.test, **its.test}))
        for row, its in plan.rows.items()
        for rank, seed in enumerate(plan.seeds if its.seeds is None else its.seeds)
    ]
    return [cell for _, cell in sorted(found, key=lambda pair: pair[0])]


def names() -> list[str]:
    """The tables that are shipped, in the order of their chapters."""
    return sorted((path.stem for path in _home().glob("*.yaml")), key=lambda name: read(name).chapter)


def read(name: str) -> Plan:
    """The table of that name, or in a file.

    Raises:
        UnknownNameError: there is no such table.
        ConfigError: the file is none.
    """
    for path in (Path(name), _home() / f"{name}.yaml"):
        if path.is_file():
            return construct(Plan, read_config(path), path.name)
    raise UnknownNameError("table", name, [path.stem for path in _home().glob("*.yaml")])


def _home() -> Path:
    return conf_dir().parent / "experiments"


def contradictions(cell: Cell, config: dict[str, Any]) -> list[str]:
    """Options of a cell's training that a finished run has otherwise.

    Args:
        cell: the cell.
        config: what the run was trained with, flat.
    """
    plain = {key.replace(".init_args.", "."): value for key, value in config.items()}
    wanted = {**cell.fit, "seed_everything": cell.seed}
    return [f"{key}={plain[key]}" for key, value in wanted.items() if key in plain and plain[key] != value]
