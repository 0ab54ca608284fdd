"""Fine-tune in mixed bfloat16: matrix products in 16 bits, weights and sums in 32.

Source: Kalamkar et al. (2019), https://arxiv.org/abs/1905.12322
"""

from effnlp.hardware.settings import Hardware


def bf16(device: str = "auto", threads: int | None = None) -> Hardware:
    """Autocast to bfloat16 while fine-tuning; the deployed model stays in float32."""
    return Hardware("bf16-mixed", device, threads)
