"""How sparsity rises over a training: at its end, in rounds, or gradually.

Source: gradual: Zhu and Gupta (2017), https://arxiv.org/abs/1710.01878; in rounds: Han et al. (2015),
https://arxiv.org/abs/1506.02626
"""

import math
from dataclasses import dataclass

from effnlp.compression.pruning.mask import check_sparsity

KINDS = ("one_shot", "iterative", "gradual")


def cubic(share: float) -> float:
    """How much of the final sparsity is reached after a share of the rise: steep first, then flat (eq. 1)."""
    return 1 - (1 - share) ** 3


def after_round(done: int, rounds: int, sparsity: float) -> float:
    """The sparsity after ``done`` of ``rounds``, each of which drops the same fraction of what is left."""
    return sparsity if done == rounds else 1 - (1 - sparsity) ** (done / rounds)


@dataclass(frozen=True)
class Schedule:
    """From no zeros to the final sparsity, by the share of the training steps that are done.

    Attributes:
        kind: ``one_shot``: nothing during the training, all after it. ``iterative``: in ``rounds`` at equal distances,
            the model being trained on between them and after the last. ``gradual``: by the cubic law.
        warmup: Share of the steps before the rise.
        cooldown: Share of the steps after it.
        update_every: Steps from one update of the masks to the next (gradual).
        rounds: How many there are (iterative).

    Raises:
        ValueError: If a value is outside its range.
    """

    kind: str = "one_shot"
    warmup: float = 0.1
    cooldown: float = 0.3
    update_every: int = 4
    rounds: int = 3

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not (self.warmup >= 0 and self.cooldown >= 0 and self.warmup + self.cooldown < 1):
            raise ValueError(
                "warmup and cooldown must be at least 0 and leave steps between them, "
                f"got {self.warmup} and {self.cooldown}"
            )
        for name in ("update_every", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def acts_in_training(self) -> bool:
        """Whether any weight is dropped before the training is over."""
        return self.kind != "one_shot"

    @property
    def settled_after(self) -> float:
        """The share of the steps from which on the sparsity is the final one; 0 where training does not change it."""
        return 1 - self.cooldown if self.acts_in_training else 0.0

    def risen(self, step: int, steps: int) -> float:
        """How much of the rise, of which warm-up and cool-down are not part, is done: in [0, 1]."""
        start, end = self.warmup * steps, (1 - self.cooldown) * steps
        if step >= end:
            return 1.0
        return max(0.0, (step - start) / (end - start))

    def sparsity_at(self, step: int, steps: int, sparsity: float) -> float:
        """The sparsity after ``step`` of ``steps``, where ``sparsity`` is the final one."""
        check_sparsity(sparsity)
        risen = self.risen(step, steps)
        if self.kind == "one_shot" or risen == 0:
            return 0.0
        if self.kind == "gradual":
            return sparsity * cubic(risen)
        return after_round(int(risen * self.rounds), self.rounds, sparsity)

    def is_due(self, step: int, steps: int) -> bool:
        """Whether masks change after ``step`` of ``steps``; the cool-down always begins with the final sparsity."""
        if not self.acts_in_training:
            return False
        if step == math.ceil((1 - self.cooldown) * steps):
            return True
        if self.kind == "gradual":
            return step % self.update_every == 0
        rounds = [int(self.risen(at, steps) * self.rounds) for at in (step - 1, step)]
        return rounds[0] != rounds[1]
