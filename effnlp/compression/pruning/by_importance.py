"""What the methods that cut one kind of part by its importance have in common: all but the parts.

Source: Michel et al. (2019), https://arxiv.org/abs/1905.10650
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from effnlp.compression.pruning.groups import (
    check_at_least_one,
    check_moment,
    choose_by_importance,
    cut,
    refuse_whole,
    removed_by,
    tell,
)
from effnlp.compression.pruning.mask import check_scope, check_sparsity
from effnlp.data.encodings import Batch
from effnlp.model.parts import Part


class ByImportance(ABC):
    """Texts say once which groups matter least, and these are cut out.

    Args:
        sparsity: Fraction of the groups removed, in [0, 1); counts are exact.
        scope: ``layer``: that fraction of each layer; ``global``: of all layers together, of which each keeps its best.
        rounds: In how many equal steps, each with importances of what is left; 1 is one shot.
        calibration_texts: How many training texts the importance is the mean of.
        moment: ``finish`` cuts the trained model; ``prepare`` the base, which then is fine-tuned as it is left, with
            importances by a head of the model that has not learnt yet, unless it has.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        sparsity: float = 0.5,
        scope: str = "layer",
        rounds: int = 1,
        calibration_texts: int = 256,
        moment: str = "finish",
    ) -> None:
        self.sparsity, self.scope = check_sparsity(sparsity), check_scope(scope)
        self.rounds = check_at_least_one("rounds", rounds)
        self.calibration_texts = check_at_least_one("calibration_texts", calibration_texts)
        self.moment = self.calibrates_at = check_moment(moment)
        self._masks: dict[str, Tensor] = {}

    @property
    @abstractmethod
    def kind(self) -> str:
        """What a group is called in the record, in the plural."""

    @abstractmethod
    def parts_of(self, model: nn.Module) -> list[Part]:
        """The parts whose groups may go."""

    def check(self, model: nn.Module) -> None:
        """Refuse a model, before it is trained, whose groups cannot be removed, or would be to the last."""
        refuse_whole({part.reader: part.count for part in self.parts_of(model)}, self.sparsity, self.scope)

    def calibrate(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        """Choose the groups to keep."""
        self._masks = choose_by_importance(
            model, self.parts_of(model), batches, self.sparsity, self.scope, self.rounds
        )

    def prepare(self, model: nn.Module) -> nn.Module:
        """Cut the base, in place, if that is the moment."""
        return self._cut(model) if self.moment == "prepare" else model

    def finish(self, model: nn.Module) -> nn.Module:
        """Cut the trained model, in place, if that is the moment."""
        return self._cut(model) if self.moment == "finish" else model

    def _cut(self, model: nn.Module) -> nn.Module:
        cut(model, self.parts_of(model), self._masks)
        tell(model, {self.kind: removed_by(self._masks)})
        return model
