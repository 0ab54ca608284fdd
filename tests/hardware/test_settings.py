"""Settings of the hardware are refused early where the machine cannot follow them."""

import pytest
import torch

from effnlp.hardware.settings import Hardware


@pytest.mark.parametrize("device", ["tpu", "cuda", ""])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ValueError, match=r"hardware\.device must be one of auto, cpu, gpu"):
        Hardware("32-true", device, None)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_at_least_one(threads):
    with pytest.raises(ValueError, match=r"hardware\.threads must be at least 1 or null, got"):
        Hardware("32-true", "cpu", threads)


def test_a_gpu_that_is_not_there_is_refused_with_what_works(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"hardware\.device=cpu works"):
        Hardware("32-true", "gpu", None).torch_device()
    assert Hardware("32-true", "auto", 2).torch_device() == "cpu"


def test_a_gpu_that_is_there_is_used_unless_it_is_not_wanted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices = [Hardware("32-true", device, None).torch_device() for device in ("auto", "gpu", "cpu")]
    assert devices == ["cuda", "cuda", "cpu"]
