"""N:M pruning: of every M neighbouring weights of a row, keep N; by magnitude, by Wanda's score or with SparseGPT.

Source: Mishra et al. (2021), https://arxiv.org/abs/2104.08378; criteria: Sun et al. (2024),
https://arxiv.org/abs/2306.11695, and Frantar and Alistarh (2023), https://arxiv.org/abs/2301.00774

Legend: I width in, O width out of a layer, N kept of M in a group.
"""

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from effnlp.compression.inputs import input_moments
from effnlp.compression.pruning.activations import wanda_scores, with_all
from effnlp.compression.pruning.held import HeldZeros, HoldZeros, refuse_frozen
from effnlp.compression.pruning.mask import check_texts, keep_in_rows, sparsity_of
from effnlp.compression.pruning.schedule import Schedule
from effnlp.compression.pruning.surgeon import prune_columns
from effnlp.data.encodings import Batch
from effnlp.method import note
from effnlp.model.surgery import encoder_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers")}
REQUIRES_UNLESS = {("recovery", 0.0): {"during": ("trainable_weights",)}}

STATISTICS = {"magnitude": None, "wanda": "squares", "sparsegpt": "outer"}
"""A criterion to what it must know of the inputs of a layer."""

DAMPING = 0.01
"""Of SparseGPT: see :func:`effnlp.compression.pruning.surgeon.inverse_factor`."""


def keep_in_groups(scores: Tensor, kept: int, group: int) -> Tensor:
    """Mark the ``kept`` highest of every ``group`` neighbouring scores of a row.

    Args:
        scores: (O, I).

    Returns:
        Boolean (O, I).

    Raises:
        ValueError: If groups do not fill the rows.
    """
    if scores.shape[1] % group:
        raise ValueError(f"group must divide the {scores.shape[1]} weights of a row, got {group}")
    return keep_in_rows(scores.unflatten(1, (-1, group)), group - kept).flatten(1)


def prune_in_groups(layer: nn.Linear, kept: int, group: int, criterion: str, seen: Tensor | None) -> Tensor:
    """The weights of a layer with N of M kept, (O, I); SparseGPT changes those that it keeps.

    Args:
        criterion: ``magnitude``, ``wanda`` or ``sparsegpt``.
        seen: Of the inputs: (I,) sums of squares for Wanda, (I, I) products for SparseGPT.
    """
    weight = layer.weight.detach()
    if criterion == "magnitude":
        return weight.where(keep_in_groups(weight.abs(), kept, group), 0.0)
    assert seen is not None
    if criterion == "wanda":
        return weight.where(keep_in_groups(wanda_scores(weight, seen), kept, group), 0.0)
    return prune_columns(weight, seen, lambda scores, _: keep_in_groups(scores, kept, group), group, DAMPING)


class SemiStructured:
    """The pattern that sparse tensor cores read, 2:4 by default; on a CPU it is as slow as a dense layer.

    What is stored are the weights that are kept and one bit for each that there was, which for 2:4 is what indices of
    two bits take. Groups run along the inputs of a layer. Embeddings, biases, norms and the head are not pruned.

    Args:
        kept: N, from 1 to M; M keeps everything.
        group: M, which must divide the width of every layer.
        criterion: ``magnitude``, ``wanda``, or ``sparsegpt``, which also updates the weights that it keeps.
        recovery: Share of the training steps, at their end, in which the zeros are there already and the rest is
            trained on; 0: zeros come after the training. Magnitude alone can tell then what is to go.
        calibration_texts: How many training texts are seen by ``wanda`` and ``sparsegpt``.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        kept: int = 2,
        group: int = 4,
        criterion: str = "magnitude",
        recovery: float = 0.0,
        calibration_texts: int = 128,
    ) -> None:
        if not 1 <= kept <= group:
            raise ValueError(f"kept must be from 1 to group={group}, got {kept}")
        if criterion not in STATISTICS:
            raise ValueError(f"criterion must be one of {', '.join(STATISTICS)}, got {criterion!r}")
        if not 0 <= recovery < 1:
            raise ValueError(f"recovery must be in [0, 1), got {recovery}")
        if recovery > 0 and criterion != "magnitude":
            raise ValueError(
                f"recovery={recovery} needs criterion=magnitude: {criterion} sees texts after training"
            )
        self.kept, self.group, self.criterion = kept, group, criterion
        self.schedule = Schedule("iterative" if recovery else "one_shot", 0.0, recovery, rounds=1)
        self.calibration_texts = check_texts(calibration_texts)
        self.calibrates_at = "finish"
        if STATISTICS[criterion] is None:
            self.calibration_texts, self.calibrates_at = 0, "never"
        self.zeros = HeldZeros()
        self._seen: dict[str, Tensor] | None = None

    @property
    def settled_after(self) -> float:
        """From here on the zeros are there."""
        return self.schedule.settled_after

    def prepare(self, model: nn.Module) -> nn.Module:
        """Check that this model can be pruned so; it is left as it is.

        Raises:
            ValueError: If groups do not fill the rows of a layer, or zeros cannot be trained around.
        """
        for name, layer in encoder_layers(model, nn.Linear).items():
            if layer.in_features % self.group:
                raise ValueError(
                    f"group must divide the width of every layer, got {self.group} for the {layer.in_features} "
                    f"inputs of {name}"
                )
        if self.schedule.acts_in_training:
            refuse_frozen(model, "recovery trains what is left (recovery=0 does not)")
        return model

    def callbacks(self) -> list[pl.Callback]:
        """What sets the zeros and holds them, if there is a recovery."""
        return [HoldZeros(self)] if self.schedule.acts_in_training else []

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Set the zeros after ``step`` of ``steps``, if the recovery begins."""
        if self.schedule.is_due(step, steps):
            linears = encoder_layers(model, nn.Linear)
            self.zeros.drop(
                linears, {n: self._kept_of(layer.weight.detach()) for n, layer in linears.items()}
            )

    def _kept_of(self, weight: Tensor) -> Tensor:
        return keep_in_groups(weight.abs(), self.kept, self.group)

    def calibrate(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        """Look at the inputs of the linear layers."""
        what = STATISTICS[self.criterion]
        assert what is not None
        self._seen = input_moments(model, encoder_layers(model, nn.Linear), batches, what)

    def finish(self, model: nn.Module) -> nn.Module:
        """Prune the trained model.

        Raises:
            ValueError: If the criterion needs texts and none were seen.
        """
        what, linears = STATISTICS[self.criterion], encoder_layers(model, nn.Linear)
        if what is not None and self._seen is None:
            raise ValueError(
                f"criterion={self.criterion} has seen no texts: it is calibrated before it finishes"
            )
        seen: Mapping[str, Tensor] = with_all(self._seen or {}, linears, what) if what else {}
        if self.kept < self.group:
            with torch.no_grad():
                for name, layer in linears.items():
                    pruned = prune_in_groups(layer, self.kept, self.group, self.criterion, seen.get(name))
                    layer.weight.copy_(pruned)
        told = sparsity_of([layer.weight for layer in linears.values()])
        note(model, "compression/pruning", {**told, "kept_of_group": self.kept, "group": self.group})
        return model
