"""Calls in processes of their own, whatever becomes of them; functions of the standard library, which start fast."""

import sys

import pytest

from npexp import fresh
from npexp.fresh import FAILED, NO_MEMORY, NO_TIME, OK, Outcome, call


def test_a_call():
    assert call("math:hypot", 3, 4, timeout=60) == Outcome(OK, 5.0, "")
    assert call("os:getenv", "OMP_NUM_THREADS", timeout=60, threads=3).value == "3"


def test_what_goes_wrong_is_a_result():
    assert call("operator:truediv", 1, 0, timeout=60) == Outcome(FAILED, None, "ZeroDivisionError: division by zero")
    late = call("time:sleep", 60, timeout=0.5)
    assert (late.status, late.why) == (NO_TIME, "more than 0.5 s")
    gone = call("os:_exit", 3, timeout=60)
    assert (gone.status, gone.why) == (FAILED, "ended with status 3")
    silent = call("os:_exit", 0, timeout=60)
    assert (silent.status, silent.why) == (FAILED, "ended with status 0")
    missing = call("no_such_module:f", timeout=60)
    assert (missing.status, missing.why) == (FAILED, "ModuleNotFoundError: No module named 'no_such_module'")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_memory_runs_out():
    fine = call("operator:length_hint", "a" * 10, timeout=60, memory=2**28)
    assert fine == Outcome(OK, 10, "")
    full = call("operator:mul", "a", 2**29, timeout=60, memory=2**28)
    assert (full.status, full.why) == (NO_MEMORY, "MemoryError:")
    last = call("sys:exit", "  what():  std::bad_alloc", timeout=60)  # as C++ ends a process
    assert (last.status, last.why) == (NO_MEMORY, "what():  std::bad_alloc")
    assert call("signal:raise_signal", 9, timeout=60) == Outcome(NO_MEMORY, None, "ended by the system")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nto allocate"), NO_MEMORY),
        (RuntimeError("std::bad_alloc"), NO_MEMORY),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FAILED),
        (ValueError("out of memory"), FAILED),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), NO_MEMORY),
    ],
)
def test_how_pytorch_says_that_memory_ran_out(error, status, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr("math.fail", fail, raising=False)
    found = fresh._answer("math:fail", [], None)
    assert found.status == status and "\n" not in found.why
