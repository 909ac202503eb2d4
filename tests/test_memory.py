"""Peak memory is a peak, and starts anew when asked to."""

import sys

import numpy as np
import pytest
import torch

from npexp.memory import peak_memory, reset_peak_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counters are read from /proc")
def test_peak_memory_sees_what_came_and_went():
    assert reset_peak_memory(CPU)
    before = peak_memory(CPU)
    array = np.ones(2**23)  # 64 MiB
    del array
    assert 50 < (peak_memory(CPU) - before) / 2**20 < 100
