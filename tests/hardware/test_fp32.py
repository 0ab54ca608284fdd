"""fp32 is the neutral hardware: nothing is cast."""

import torch

from effnlp.hardware.fp32 import fp32


def test_it_computes_in_float32_on_what_there_is():
    made = fp32()
    assert made.precision == "32-true"
    assert made.torch_device() == ("cuda" if torch.cuda.is_available() else "cpu")
    assert fp32(device="cpu").torch_device() == "cpu"
