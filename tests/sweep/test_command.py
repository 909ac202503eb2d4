"""What `npexp sweep` makes of its arguments and of the machine."""

import signal
import subprocess
import sys

import pytest

from npexp.cli import main
from npexp.errors import ConfigError
from npexp.processes import hearing
from npexp.sweep import command, slots
from npexp.sweep.study import parse
from tests.sweep.fakes import content


@pytest.fixture(autouse=True)
def _four_processors(monkeypatch):
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda pid: range(4))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_help_needs_neither_torch_nor_optuna():
    code = (
        "import sys, npexp.cli\ntry: npexp.cli.main(['sweep', '--help'])\n"
        "except SystemExit: print({'torch', 'optuna'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.endswith("set()\n") and "--devices-per-trial" in result.stdout


def test_workers_share_the_machine():
    assert slots.share(1, 1, []) == [([], 1, None)]  # one alone has all of it
    assert slots.share(2, 1, []) == [([], 1, 2), ([], 1, 2)]
    assert slots.share(2, 3, []) == [([], 3, 1), ([], 3, 1)]
    assert slots.share(2, 2, list("abcde")) == [(["a", "b"], 2, 1), (["c", "d"], 2, 1)]
    with pytest.raises(ConfigError, match="3 workers with 2 devices each need 6 GPUs, and there are 5"):
        slots.share(3, 2, list("abcde"))


def test_threads_that_the_user_chose_stay(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert slots.share(2, 1, []) == [([], 1, None), ([], 1, None)]


def test_processors_are_counted_where_the_system_knows_no_affinity(monkeypatch):
    monkeypatch.delattr(slots.os, "sched_getaffinity")
    monkeypatch.setattr(slots.os, "cpu_count", lambda: 6)
    assert slots.share(2, 1, []) == [([], 1, 3), ([], 1, 3)]


def test_a_closed_terminal_is_an_interruption_unless_nohup_says_otherwise():
    before = signal.getsignal(signal.SIGHUP)  # the tests themselves may run under nohup
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(KeyboardInterrupt), hearing(signal.default_int_handler):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with hearing(signal.default_int_handler):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_gpus_are_those_that_may_be_seen(monkeypatch):
    for value, found in {"": [], "-1": [], "2, 3": ["2", "3"], "GPU-a": ["GPU-a"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert slots.gpus() == found


def test_gpus_are_asked_for_by_their_own_names(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho GPU-a\necho GPU-b\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slots.gpus() == ["GPU-a", "GPU-b"]
    tool.write_text("#!/bin/sh\nexit 9\n")  # no driver
    assert slots.gpus() == []
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert slots.gpus() == []


def test_a_sweep_on_the_cpu_needs_no_gpus():
    assert command.uses_gpus(parse(content(), "a"))
    assert not command.uses_gpus(parse(content(overrides={"trainer.accelerator": "cpu"}), "a"))
    assert not command.uses_gpus(parse(content(configs=["base", "trainer/cpu"]), "a"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: --config"),
        (["--config", "sweeps/none.yaml"], "unknown sweep 'sweeps/none.yaml'"),
        (["--config", "latents", "--worker", "2"], "did you mean '--workers'"),
        (["--config", "latents", "--workers", "0"], "expected --workers to be an integer, at least 1"),
        (["--config", "latents", "--trials", "0"], "expected --trials to be an integer, at least 1"),
        (["--config", "latents", "--study", "../x"], "expected --study to be a name"),
        (["--config", "latents", "--storage", "redis://x"], "expected --storage to be sqlite:///FILE"),
        (["best"], "needs STUDY or --config FILE"),
        (["statsu", "latents"], "unknown command of npexp sweep 'statsu'; did you mean 'status'"),
        (["status", "latents", "--storage", "journal:x.log"], "no study 'latents' in x.log; check --storage"),
    ],
)
def test_mistakes(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
