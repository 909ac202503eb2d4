"""The command: what it refuses, in which order it measures, what it keeps, and one measurement for real."""

import json
import sys
from pathlib import Path

import pytest

from npexp import fresh
from npexp.bench import command
from npexp.bench.record import Key, Record
from npexp.cli import main
from npexp.fresh import FAILED, NO_MEMORY, NO_TIME, OK, Outcome
from tests.bench.records import MACHINE, ok


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "cmnp"], "did you mean 'cmanp'"),
        (["--models", "experiment/gp_rbf_tnpx"], "experiment/gp_rbf_tnp"),
        (["--mixers", "liner"], "did you mean 'linear'"),
        (["--modes", "train,predct"], "did you mean 'predict'"),
        (["--context-sizes", "128,x"], "expected --context-sizes to be whole numbers above 0 such as 128,1024"),
        (["--context-sizes", "0"], "expected --context-sizes"),
        (["--targets", "0"], "expected --targets to be an integer, at least 1, got 0"),
        (["--repeats", "2"], "at least 3, got 2"),
        (["--timeout", "0"], "expected --timeout > 0"),
        (["--dtype", "float16"], "invalid choice: 'float16'"),
        (["--device", "cuda", "--memory-limit", "1"], "--memory-limit is for --device cpu"),
        (["--device", "tpu"], "expected --device to be cpu, cuda or cuda:1, got 'tpu'"),
        (["--models", "tests"], "tests has no checkpoint best.ckpt"),
        (["--plot", "a.txt"], "expected --plot to be a .png"),
        (["--plot", "nowhere/a.png"], "in a folder that exists, got nowhere/a.png"),
        (["--json", "nowhere/a.json"], "cannot write nowhere/a.json (No such file or directory)"),
        (["--contxt-sizes", "3"], "did you mean '--context-sizes'"),
        (["--compare", "no.json", "no.json", "--threads", "2"], "--compare takes two files and no other option"),
        (["--compare", "no.json", "no.json"], "expected no.json to be a file that npexp bench --json wrote"),
    ],
)
def test_mistakes(words, message, capsys):
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("npexp: ") and error.count("\n") == 1


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Measurements by formula, in a folder of its own; the list of what was measured, and what fails."""
    monkeypatch.chdir(tmp_path)
    done, fails = [], {}

    def call(target, *args, timeout, memory=None, threads=None):
        if target.endswith("rates"):
            return Outcome(OK, MACHINE, "")
        model, mode, context, targets, batch, *_ = args[0]
        done.append((mode, context, model, targets, batch))
        outcome = fails.get((mode, context, model), Outcome(OK, None, ""))
        if outcome is KeyboardInterrupt:
            raise KeyboardInterrupt
        measured = ok(1e-6 * context**2 if model == "tnp" else 1e-3 * context, 2**20 * context)
        return outcome._replace(value=measured) if outcome.status == OK else outcome

    monkeypatch.setattr(fresh, "call", call)
    return done, fails


def test_models_take_turns(fake, capsys):
    """Sizes outside, models inside; 1e-6 n^2 and 1e-3 n meet at 1,000."""
    done, _ = fake
    words = ["bench", "--models", "tnp", "cnp", "--context-sizes", "2048,128,512", "--modes", "train,update"]
    assert main(words) == 0
    sizes = [(n, mode) for n in (128, 512, 2048) for mode in ("train", "update")]
    expected = [(n, mode, name) for n, mode in sizes for name in ("tnp", "cnp")]
    assert [(n, mode, name) for mode, n, name, *_ in done] == expected
    training = {(n, targets, batch) for mode, n, _, targets, batch in done if mode == "train"}
    assert training == {(128, 128, 16), (512, 256, 16), (2048, 256, 16)}
    assert {(targets, batch) for mode, _, _, targets, batch in done if mode == "update"} == {(256, 1)}
    shown = capsys.readouterr().out
    assert "train: cnp is faster than tnp from 1,000 context points on" in shown
    assert ["update", "tnp", "2.00", "1.00"] in [line.split() for line in shown.splitlines()]
    assert "abacus, 1 thread, float32, 256 targets." in shown


def test_failures_are_results(fake, capsys):
    done, fails = fake
    fails["encode", 512, "tnp"] = Outcome(NO_TIME, None, "more than 120 s")
    fails["predict", 128, "cnp"] = Outcome(NO_MEMORY, None, "MemoryError:")
    fails["encode", 512, "cnp"] = Outcome(FAILED, None, "DataError: [b] no")
    words = ["--models", "tnp", "cnp", "--modes", "encode,predict", "--context-sizes", "128,512,2048,8192"]
    assert main(["bench", *words, "--json", "a.json"]) == 0
    found = {key: (cell["status"], cell["why"]) for key, cell in Record.read("a.json").cells.items()}
    assert found[Key("encode", 512, "tnp")] == ("timed out", "more than 120 s")
    assert found[Key("encode", 8192, "tnp")] == ("skipped", "timed out at 512")
    assert {found[Key("predict", n, "cnp")] for n in (512, 2048, 8192)} == {("skipped", "out of memory at 128")}
    assert found[Key("encode", 512, "cnp")][0] == "failed" and found[Key("encode", 2048, "cnp")][0] == "ok"
    assert found[Key("predict", 8192, "tnp")][0] == "ok" and len(done) == 16 - 2 - 3
    assert "DataError: [b] no" in capsys.readouterr().out


def test_interrupted_and_gone_on_with(fake, capsys, monkeypatch):
    done, fails = fake
    words = ["bench", "--models", "tnp", "cnp", "--modes", "encode", "--context-sizes", "128,512", "--json", "a.json"]
    fails["encode", 512, "tnp"] = KeyboardInterrupt
    assert main(words) == 130
    captured = capsys.readouterr()
    assert "the same command goes on from here" in captured.err and "encode" in captured.out
    assert len(Record.read("a.json").cells) == 2 and "[2/4] encode 128 cnp: 128 ms, 128 MiB" in captured.err
    fails.clear(), done.clear()
    with monkeypatch.context() as elsewhere:
        elsewhere.setitem(MACHINE, "device", "slide rule")
        assert main(words) == 2 and not done
    assert "a.json was measured on abacus, this is slide rule: give another" in capsys.readouterr().err
    assert main(words) == 0
    assert [(n, name) for _, n, name, *_ in done] == [(512, "tnp"), (512, "cnp")]
    assert len(Record.read("a.json").cells) == 4
    done.clear()
    assert main(words) == 0 and not done  # nothing is missing
    assert main([*words, "--threads", "2"]) == 2
    assert "threads 1, not 2" in capsys.readouterr().err


def test_plot(fake):
    words = ["bench", "--models", "tnp", "cnp", "--modes", "encode", "--context-sizes", "128,512,2048", "--plot"]
    assert main([*words, "a.png"]) == 0
    assert Path("a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_cell():
    assert command._memory({"memory_limit": 1.5, "device": "cpu"}) == 1_500_000_000
    assert command._memory({"memory_limit": None, "device": "cuda"}) is None
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < command._memory({"memory_limit": None, "device": "cpu"}) <= 0.9 * total


def test_a_device_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(fresh, "call", lambda *args, **options: Outcome(FAILED, None, "RuntimeError: no"))
    assert main(["bench", "--device", "cuda"]) == 2
    assert "cannot compute in float32 on cuda: RuntimeError: no" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_for_real(tmp_path, monkeypatch, capsys):
    """Two cells, of which one has too little memory: 16 x 4 heads x 2,000 x 2,000 scores, or their keys, in 100 MB."""
    monkeypatch.setattr(command, "_memory", lambda settings: 10**8)
    path = tmp_path / "a.json"
    words = ["--models", "tnp", "--modes", "train", "--context-sizes", "16,4096", "--repeats", "3", "--json", str(path)]
    assert main(["bench", *words]) == 0
    small, large = json.loads(path.read_text())["cells"]
    assert (small["status"], large["status"]) == ("ok", "out of memory")
    assert small["peak"] > 0 and 0 < small["cpu"][1] < 60
    machine = Record.read(path).facts["machine"]
    assert min(machine["matmul"] + machine["copy"]) > 1e7
