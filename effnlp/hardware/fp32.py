"""Compute in 32-bit floating point throughout.

Source: the baseline of Micikevicius et al. (2018), https://arxiv.org/abs/1710.03740
"""

from effnlp.hardware.settings import Hardware


def fp32(device: str = "auto", threads: int | None = None) -> Hardware:
    """Weights, activations and gradients in float32."""
    return Hardware("32-true", device, threads)
