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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_peak_memory_of_a_gpu():
    device = torch.device("cuda")
    torch.ones(2**25, device=device)  # an earlier, larger peak
    assert reset_peak_memory(device)
    before = peak_memory(device)
    torch.ones(2**24, device=device)
    assert peak_memory(device) - before == 2**26
