"""`npexp bench`: what is asked for, and cell after cell of it."""

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from npexp import fresh
from npexp.bench import tables
from npexp.bench.record import Key, Record
from npexp.commands import Parser
from npexp.errors import ConfigError, UnknownNameError, at_least, positive

MODES = ("train", "encode", "predict", "update", "sample")
DTYPES = ("float32", "float64", "bfloat16")
SETTINGS = ("targets", "device", "dtype", "batch_size", "threads", "repeats", "timeout", "memory_limit")
DEFAULT_MODELS = ("cnp", "cmanp", "tnp")
RATES_TIMEOUT = 300.0  # seconds for what the machine can do, on the slowest of them
SKIPPED = "skipped"
HOPELESS = (fresh.NO_MEMORY, fresh.NO_TIME)  # for larger contexts too


def bench(words: Sequence[str]) -> int:
    """Measures, or compares two files of measurements.

    Returns:
        0; 1 when a comparison finds a regression; 130 when interrupted.
    """
    args = _parser().read(words)
    if args.compare:
        if len(words) > 3:
            raise ConfigError("--compare takes two files and no other option: leave the others out")
        from npexp.bench.compare import compare

        return compare(*(Record.read(path) for path in args.compare))
    plan = _plan(args)
    if args.plot is not None:
        _check_plot(Path(args.plot))
    settings = {name: getattr(args, name) for name in SETTINGS}
    record = Record.open(args.json, {"settings": settings, **_origin(words)})
    stopped = False
    try:
        run(plan, record)
    except KeyboardInterrupt:
        stopped = True
        hint = "the same command goes on from here" if args.json else "with --json FILE it would be kept"
        print(f"interrupted: what is done is shown; {hint}", file=sys.stderr)
    if record.cells:
        tables.show(record)
        if args.plot is not None:
            from npexp.bench.plot import plot

            plot(record, args.plot)
    return 130 if stopped else 0


def run(plan: Sequence[Key], record: Record) -> None:
    """Measures what the record lacks of a plan, and adds it.

    Raises:
        ConfigError: the device cannot do it, or the record is of another machine.
    """
    missing = [key for key in plan if key not in record.cells]
    if not missing:
        return
    settings = record.facts["settings"]
    device, dtype, threads = (settings[name] for name in ("device", "dtype", "threads"))
    rates = fresh.call("npexp.bench.machine:rates", device, dtype, timeout=RATES_TIMEOUT, threads=threads)
    if rates.status != fresh.OK:
        raise ConfigError(f"cannot compute in {dtype} on {device}: {rates.why}")
    before, now = record.facts.setdefault("machine", rates.value)["device"], rates.value["device"]
    if before != now:
        raise ConfigError(f"{record.path} was measured on {before}, this is {now}: give another --json FILE")
    memory = _memory(settings)
    for i, key in enumerate(missing, 1):
        if reason := _hopeless(key, record):
            done = fresh.Outcome(SKIPPED, None, reason)
        else:
            cell, timeout = _cell(key, settings), settings["timeout"]
            done = fresh.call("npexp.bench.cell:measure", cell, timeout=timeout, memory=memory, threads=threads)
        record.add(key, {"status": done.status, "why": done.why, **(done.value or {})})
        print(f"[{i}/{len(missing)}] {tables.line(key, record)}", file=sys.stderr)


def _memory(settings: dict[str, Any]) -> int | None:
    """Bytes that a cell may take on a CPU: without a limit nine tenths of what is free, so that others live on."""
    if settings["memory_limit"] is not None:
        return round(settings["memory_limit"] * 1e9)
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 * 9 // 10 if found and settings["device"] == "cpu" else None


def _hopeless(key: Key, record: Record) -> str:
    """Why larger contexts of a model need not be tried; "" where they must."""
    for other, cell in record.cells.items():
        smaller = (other.mode, other.model) == (key.mode, key.model) and other.context < key.context
        if smaller and cell["status"] in HOPELESS:
            return f"{cell['status']} at {other.context:,}"
    return ""


def _cell(key: Key, settings: dict[str, Any]) -> list[Any]:
    """The fields of `npexp.bench.cell.Cell`. A training step has as many targets as context points at most."""
    training = key.mode == "train"
    targets = min(key.context, settings["targets"]) if training else settings["targets"]
    batch = settings["batch_size"] if training else 1
    return [key.model, key.mode, key.context, targets, batch, *(settings[k] for k in ("device", "dtype", "repeats"))]


def _plan(args: argparse.Namespace) -> list[Key]:
    """Models take turns at each size, so that whatever slows the machine for a while slows all of them."""
    from npexp.bench.subjects import check

    sizes = sorted(set(_split("--context-sizes", args.context_sizes, _size)))
    modes = list(dict.fromkeys(_split("--modes", args.modes, _mode)))
    for name, low in (("targets", 1), ("batch_size", 1), ("threads", 1), ("repeats", 3)):
        at_least(f"--{name.replace('_', '-')}", getattr(args, name), low)
    positive("--timeout", args.timeout)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", args.device):
        raise ConfigError(f"expected --device to be cpu, cuda or cuda:1, got '{args.device}'")
    if args.memory_limit is not None:
        positive("--memory-limit", args.memory_limit)
        if args.device != "cpu":
            raise ConfigError(f"--memory-limit is for --device cpu, got {args.device}: leave it out")
    models = check(args.models or ([] if args.mixers else DEFAULT_MODELS), args.mixers or [])
    return [Key(mode, n, model) for n in sizes for mode in modes for model in models]


def _check_plot(path: Path) -> None:
    if path.suffix not in (".png", ".pdf", ".svg") or not path.absolute().parent.is_dir():
        raise ConfigError(f"expected --plot to be a .png, .pdf or .svg file in a folder that exists, got {path}")


def _split(option: str, words: str, read: Callable[[str], Any]) -> list[Any]:
    try:
        return [read(word.strip()) for word in words.split(",")]
    except ValueError:
        raise ConfigError(f"expected {option} to be whole numbers above 0 such as 128,1024, got '{words}'") from None


def _size(word: str) -> int:
    if (size := int(word)) < 1:
        raise ValueError
    return size


def _mode(word: str) -> str:
    if word not in MODES:
        raise UnknownNameError("mode", word, MODES)
    return word


def _origin(words: Sequence[str]) -> dict[str, Any]:
    from npexp.runs import package_versions, revision

    versions = package_versions(("npexp", "torch", "numpy"))
    return {"command": shlex.join(["npexp", "bench", *words]), "versions": versions, "revision": revision()}


def _parser() -> Parser:
    parser = Parser(
        "bench",
        "Measures time, memory and arithmetic of models against the size of the context, each cell in a process of its "
        "own. Without options: three small models, some two minutes. See docs/bench.md.",
    )
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        metavar="NAME",
        help="as npexp models lists them, paper/tnpd, experiment/gp_rbf_np, a checkpoint or a run folder; default: "
        + " ".join(DEFAULT_MODELS),
    )
    add("--mixers", nargs="+", metavar="NAME", help="models 'tnp' with these mixers")
    add("--context-sizes", default="64,256,1024", metavar="N,N,...", help="default: %(default)s")
    add("--targets", type=int, default=256, metavar="N", help="in training no more than context points; %(default)s")
    add("--modes", default="train,encode,predict", metavar="MODE,...", help=f"of {','.join(MODES)}; %(default)s")
    add("--device", default="cpu", help="cpu, cuda, cuda:1; default: %(default)s")
    add("--dtype", default="float32", choices=DTYPES, help="bfloat16 is mixed precision; default: %(default)s")
    add("--batch-size", type=int, default=16, metavar="N", help="tasks of a training step; otherwise one; %(default)s")
    add("--threads", type=int, default=1, metavar="N", help="on a CPU; default: %(default)s")
    add("--repeats", type=int, default=30, metavar="N", help="rounds at most, within some 2 s, at least 3; %(default)s")
    add("--timeout", type=float, default=120.0, metavar="S", help="seconds for a cell, start and all; %(default)s")
    add("--memory-limit", type=float, metavar="GB", help="of a cell on a CPU, beyond PyTorch itself; Linux only")
    add("--json", metavar="FILE", help="keep every cell here; a second time, only what is missing is measured")
    add("--plot", metavar="FILE", help="draw time and memory against the size: .png, .pdf or .svg")
    add("--compare", nargs=2, metavar=("OLD", "NEW"), help="compare two such files; status 1 if NEW is worse")
    return parser
