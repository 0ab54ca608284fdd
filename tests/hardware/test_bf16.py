"""bf16 casts products to 16 bits while weights stay in 32."""

import pytorch_lightning as pl
import torch
from torch import nn

from effnlp.finetuning.adamw import Descent
from effnlp.hardware.bf16 import bf16
from effnlp.hardware.fp32 import fp32


class Module(pl.LightningModule):
    def __init__(self, descent=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen, self.descent = nn.Linear(8, 2), [], descent

    def training_step(self, batch, _):
        out = self.layer(batch)
        self.seen.append(out.dtype)
        return out.float().square().mean()

    def configure_optimizers(self):
        if self.descent is not None:
            return self.descent.optimizer(self, steps=4)[0]
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(hardware, descent=None, **more):
    module = Module(descent)
    data = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(1))
    trainer = pl.Trainer(
        precision=hardware.precision, accelerator="cpu", max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **more,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    return module


def test_products_are_in_16_bits_and_weights_in_32_and_both_learn_nearly_alike():
    half, full = trained(bf16(device="cpu")), trained(fp32(device="cpu"))
    assert set(half.seen) == {torch.bfloat16}
    assert set(full.seen) == {torch.float32}
    assert half.layer.weight.dtype == torch.float32
    assert not torch.equal(half.layer.weight, full.layer.weight)
    torch.testing.assert_close(half.layer.weight, full.layer.weight, rtol=0, atol=1e-2)


def test_gradients_are_clipped_under_our_optimizer_in_16_bits_too():
    descent = Descent(learning_rate=1e-2, weight_decay=0.01, warmup_fraction=0.0)
    half, full = (trained(make(device="cpu"), descent, gradient_clip_val=1e-6) for make in (bf16, fp32))
    torch.testing.assert_close(half.layer.weight, full.layer.weight, rtol=0, atol=5e-3)
    assert not torch.equal(half.layer.weight, Module().layer.weight)
