"""Commands that start fast because they leave Lightning alone: `models`, `mixers`, `data`, `predict` and `export`."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from npexp.errors import ConfigError, UnknownNameError, suggest

COSTS = ("state_bytes", "flops_update", "flops_predict", "flops_target")
COSTS_MEAN = (
    "Of one task: bytes of a constant state; floating-point operations of an update with one point, and of a "
    "prediction, once and for each target, after 1,000 points where the state grows."
)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `ConfigError` with the nearest known options."""

    def __init__(self, name: str, description: str):
        super().__init__(f"npexp {name}", description=description, allow_abbrev=False)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments."""
        found, unknown = self.parse_known_args(words)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            raise ConfigError(f"unknown option '{unknown[0]}'; {suggest(unknown[0].split('=')[0], known)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Raises instead of exiting, so that every mistake is reported in one place."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def models(words: Sequence[str]) -> int:
    """Lists the models."""
    from npexp.registry import available_models

    title = "The models, with parameters and costs at dx = dy = 1, and traits."
    return _listing("models", title, lambda: available_models(measured=True), words, COSTS_MEAN)


def mixers(words: Sequence[str]) -> int:
    """Lists the mixers, or measures them."""
    from npexp import mixer_costs, mixer_table
    from npexp.registry import available_mixers

    parser = Parser("mixers", "The token mixers by family, with costs and traits.")
    parser.add_argument("--family", help=f"only this one: {', '.join(mixer_table.FAMILIES)}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--markdown", action="store_true", help="print the page docs/mixers.md")
    parser.add_argument(
        "--measure",
        nargs="*",
        metavar="NAME",
        help=f"measure time and memory, up to minutes each, and write {mixer_costs.MEASURED}: these mixers anew, or "
        "without names whatever is missing, so that it may be interrupted",
    )
    args = parser.read(words)
    if args.family not in (None, *mixer_table.FAMILIES):
        raise UnknownNameError("family", args.family, mixer_table.FAMILIES)
    if args.measure is not None:
        names = args.measure or [n for n, t in available_mixers().items() if args.family in (None, t["family"])]
        mixer_costs.measure_all(names, print, anew=bool(args.measure))
        return 0
    found = available_mixers(measured=True)
    if args.markdown:
        print(mixer_table.markdown(found), end="")
        return 0
    found = {name: traits for name, traits in found.items() if args.family in (None, traits["family"])}
    print(json.dumps(found, indent=2, default=list) if args.json else mixer_table.terminal(found))
    return 0


def data(words: Sequence[str]) -> int:
    """Lists the task families."""
    from npexp.registry import available_data

    return _listing("data", "The task families.", available_data, words)


def _listing(
    name: str, title: str, entries: Callable[[], dict[str, dict[str, Any]]], words: Sequence[str], notes: str = ""
) -> int:
    parser = Parser(name, title)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    as_json = parser.read(words).json
    found = entries()
    if as_json:
        print(json.dumps(found, indent=2, default=list))
    else:
        print_listing(title, found, notes)
    return 0


def print_listing(title: str, entries: Mapping[str, Mapping[str, Any]], notes: str = "") -> None:
    """Prints names as rows; yes-or-no traits share one column, which names what sets an entry apart.

    A trait that most entries have is said once, under the table, and where it is missing. One that an entry does not
    name it does not have.

    Args:
        title: stands above the table.
        entries: traits by name.
        notes: stand below it.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    keys = list(dict.fromkeys(key for traits in entries.values() for key in traits))
    flags = {key for key in keys if all(isinstance(traits.get(key, False), bool) for traits in entries.values())}
    columns = [key for key in keys if key not in flags]
    having = {key: [traits.get(key, False) for traits in entries.values()] for key in keys if key in flags}
    usual = [key for key, answers in having.items() if 2 * sum(answers) > len(entries)]
    cells = {key: [_words(traits.get(key), key in COSTS) for traits in entries.values()] for key in columns}
    if flags:
        special = ([k for k in having if having[k][i] != (k in usual)] for i in range(len(entries)))
        said = (", ".join(("not " if key in usual else "") + key for key in own) for own in special)
        cells["traits"] = [words.replace("_", " ") for words in said]
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, header_style="bold")
    table.pad_edge, table.collapse_padding = False, True
    table.add_column("name", no_wrap=True)
    least = max(map(len, entries)) + 2
    for key, column in cells.items():
        heading = key.replace("_", " ")
        longest = max(len(word) for cell in (heading, *column) for word in cell.split())
        least += longest + 2
        is_number = key in columns and all(isinstance(traits.get(key), int | None) for traits in entries.values())
        single = all(" " not in cell for cell in column)
        table.add_column(heading, justify="right" if is_number else "left", width=longest if single else None)
    for row in zip(entries, *cells.values(), strict=True):
        table.add_row(*row)
    console = Console()
    console.width = max(console.width, least)  # lines that a terminal breaks are better than words cut off
    console.print(table)
    if notes:
        console.print(notes)
    if usual:
        console.print(f"Unless said otherwise: {', '.join(usual)}.".replace("_", " "))


def _words(value: Any, short: bool) -> str:
    if value is None:
        return "-"
    if short:
        digits = f"{value:.2e}"  # three of them count
        power = int(digits[5:]) // 3
        return f"{float(digits) / 1000**power:.3g}{['', 'k', 'M', 'G', 'T'][power]}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple, set, frozenset)) else str(value)


def predict(words: Sequence[str]) -> int:
    """Predicts for data in files."""
    parser = Parser(
        "predict",
        "Predicts from a trained model for data in files. CSV and Parquet: one row per point, inputs in columns x or "
        "x0, x1, ..., outputs in y or y0, y1, ..., and a column 'task' when there are several tasks; rows without "
        "outputs are the targets. A model that was trained on a table takes its columns, dates and categories by their "
        "names instead. NPZ: arrays xc, yc and xt, [n, d] or [b, n, d].",
    )
    parser.add_argument(
        "--ckpt_path",
        required=True,
        help="a .ckpt file, a run folder such as runs/gp_rbf (its newest version), or the name of a pretrained model",
    )
    parser.add_argument("--context", required=True, help="the file with the observed points")
    parser.add_argument("--targets", help="a file with the points to predict; without it they are in --context")
    parser.add_argument("--out", required=True, help="the file to write: CSV or Parquet for tables, NPZ for NPZ")
    parser.add_argument("--x", nargs="+", metavar="COLUMN", help="names of the input columns")
    parser.add_argument("--y", nargs="+", metavar="COLUMN", help="names of the output columns")
    parser.add_argument(
        "--quantiles", nargs="*", type=float, default=[0.025, 0.5, 0.975], metavar="LEVEL", help="between 0 and 1"
    )
    parser.add_argument("--device", default="cpu", help="where to compute, e.g. cuda")
    args = parser.read(words)
    levels = sorted(set(args.quantiles))
    if not all(0 < level < 1 for level in levels):
        raise ConfigError(f"expected --quantiles between 0 and 1, got {' '.join(map(str, args.quantiles))}")

    from npexp import predict_files as files

    as_arrays = Path(args.context).suffix == ".npz"
    if as_arrays != (Path(args.out).suffix == ".npz"):
        kind = ".npz" if as_arrays else ".csv or .parquet"
        raise ConfigError(f"expected --out to be {kind} as --context {args.context}, got {args.out}")
    if as_arrays and (args.x or args.y):
        raise ConfigError("--x and --y name columns of a table; an NPZ file holds arrays xc, yc and xt")
    read = files.read_arrays if as_arrays else files.read_table
    # Whatever can fail does so before the model is loaded.
    context, targets = read(args.context), read(args.targets) if args.targets else None
    if Path(args.out).resolve() in {Path(p).resolve() for p in (args.context, args.targets) if p}:
        raise ConfigError(f"--out {args.out} would overwrite the points it is computed from: give another file")
    files.check_output(args.out)
    predictor = _load(args.ckpt_path, args.device)
    if as_arrays:
        files.write_arrays(args.out, files.predict_arrays(predictor, {**context, **(targets or {})}, levels))
    else:
        files.write_table(args.out, files.predict_table(predictor, context, targets, args.x, args.y, levels))
    return 0


def export(words: Sequence[str]) -> int:
    """Writes a trained model as files for others."""
    parser = Parser(
        "export",
        "Writes a trained model as files for others. onnx: a constant-memory model for places without PyTorch, as "
        "encode.onnx, update.onnx and predict.onnx, for any number of tasks, points and targets, and manifest.json, "
        "which says what is in them. safetensors: any tested run for npexp.load_predictor, as weights, settings, "
        "scores and a model card.",
    )
    parser.add_argument(
        "--ckpt_path", required=True, help="a .ckpt file, or a run folder such as runs/gp_rbf (its newest version)"
    )
    parser.add_argument("--out", required=True, help="the folder to write; new or empty")
    parser.add_argument("--format", choices=("onnx", "safetensors"), default="onnx", help="what to write")
    parser.add_argument("--notes", nargs="+", metavar="SENTENCE", help="what the model card says under limits, too")
    args = parser.read(words)
    if args.notes and args.format == "onnx":
        raise ConfigError("--notes stand in a model card: give --format safetensors")

    from npexp.runs import checkpoint_at

    if args.format == "safetensors":
        from npexp.publish import publish

        publish(checkpoint_at(args.ckpt_path), args.out, args.notes or ())
        return 0

    from npexp.export import GRAPHS, export_onnx

    manifest = export_onnx(_load(args.ckpt_path, "cpu"), args.out)
    files = ", ".join([*(f"{name}.onnx" for name in GRAPHS), "manifest.json"])
    difference = manifest["largest_difference"]
    print(f"{args.out}: {files}; differ from PyTorch by at most {difference:.1g} predicted standard deviations")
    return 0


def _load(place: str, device: str) -> Any:
    import torch

    from npexp.predict import load_predictor
    from npexp.runs import checkpoint_at
    from npexp.trained import published

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"cannot compute on --device {device}: {reason}") from error
    is_run = Path(place).exists() and published(place) is None
    return load_predictor(checkpoint_at(place) if is_run else place, device)
