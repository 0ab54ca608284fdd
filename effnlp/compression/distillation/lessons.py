"""What a student is taught with: a teacher, and the texts of which the teacher says something.

Legend: B batch, N training texts with those of the pool, C classes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from effnlp.compression.distillation.lookup import Lookup, Wanted, look
from effnlp.compression.distillation.pool import pool_of, with_pool
from effnlp.compression.distillation.teacher import find_teacher, logits_of, with_classes
from effnlp.compression.distillation.trace import LayerTrace, Trace, trace, trace_layer
from effnlp.data.encodings import Batch
from effnlp.model.classifier import Classifier

if TYPE_CHECKING:
    from effnlp.data.prepare import Prepared
    from effnlp.gathering import Around


class Lessons:
    """A teacher, looked up or looked at.

    Attributes:
        logits: (N, C) of the teacher on each training text, in their order; None where it is looked at instead.
        model: The teacher, to be looked at layer by layer; None where its logits are enough.
        lookup: What its layers made of the training texts; None where it reads them beside the student.
        pool_texts: How many texts have no label.

    Args:
        teacher: Folder or record.json of a finished run, or overrides of a run that is done first; None: not named yet.
        pool: File with texts without labels; None: no file.
        pool_size: Rows of the training split beyond ``task.train_size`` that are taken without their labels.

    Raises:
        ValueError: If ``pool_size`` is negative, or there are two pools.
    """

    def __init__(
        self, teacher: str | Sequence[str] | None, pool: str | None = None, pool_size: int = 0
    ) -> None:
        if pool_size < 0:
            raise ValueError(f"pool_size must be at least 0, got {pool_size}")
        if pool is not None and pool_size:
            raise ValueError(f"give a pool (here {pool}) or a pool_size (here {pool_size}), not both")
        self.teacher, self.pool, self.pool_size = teacher, pool, pool_size
        self.logits: Tensor | None = None
        self.model: Classifier | None = None
        self.lookup: Lookup | None = None
        self.pool_texts = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Lessons":
        """Itself: a look at a model in training copies the student, not the teacher, which never changes."""
        return self

    @property
    def has_pool(self) -> bool:
        """Whether texts without a label are learned from."""
        return self.pool is not None or self.pool_size > 0

    def gather(self, data: "Prepared", around: "Around", wanted: Wanted | None = None) -> "Prepared":
        """Get the teacher and the pool; the data with its texts.

        Args:
            wanted: What of its layers the student follows; None: its logits are enough.

        Raises:
            ValueError: If there is no teacher, or it does not fit the task or the tokenizer.
        """
        teacher = find_teacher(self.teacher, around)
        columns = teacher.columns(data.task)
        looked_at = teacher.by_layers(data.tokenizer) if wanted else None
        pool = pool_of(self.pool, self.pool_size, data.task, around)
        data = with_pool(data, pool)
        self.pool_texts = 0 if pool is None else len(pool)
        if wanted is None or looked_at is None:
            self.learn_from(logits=logits_of(teacher, data.train, columns, around))
            return data
        self.learn_from(model=with_classes(looked_at, columns))
        self.lookup = look(looked_at, data.examples["train"], wanted, around, teacher.digest, columns)
        around.note("distillation/layers", "cached" if self.lookup else "read in each epoch")
        return data

    def learn_from(self, model: Any = None, logits: Tensor | None = None) -> None:
        """Take a teacher, or what it said. A model is frozen, and in evaluation mode from now on."""
        self.model = None if model is None else model.eval().requires_grad_(False)
        self.logits, self.lookup = logits, None

    def logits_on(self, batch: Batch) -> Tensor:
        """(B, C) what the teacher said of the texts of a batch.

        Raises:
            ValueError: If it was not asked, or the batch does not say which texts it holds.
        """
        if self.logits is None or "rows" not in batch:
            missing = "rows of the batch" if self.logits is not None else "answers of a teacher"
            raise ValueError(f"distillation needs the {missing}: gather comes before the training")
        self.logits = self.logits.to(batch["rows"].device)
        return self.logits[batch["rows"]]

    def traces(self, model: nn.Module, batch: Batch, roles: Sequence[str] = ()) -> tuple[Trace, Trace]:
        """What student and teacher make of a batch, layer by layer; only the first can be learned from."""
        student = trace(model, batch, roles)
        known = self.lookup.trace(batch) if self.lookup else None
        if known is not None:
            return student, known
        with torch.no_grad():
            return student, trace(self.teacher_on(student.logits.device), batch, roles)

    def layer_of_teacher(self, batch: Batch, layer: int, roles: Sequence[str] = ()) -> LayerTrace:
        """What a layer of the teacher, from 1 on, makes of a batch."""
        known = self.lookup.trace(batch) if self.lookup else None
        if known is not None:
            return known.at(layer)
        with torch.no_grad():
            return trace_layer(self.teacher_on(batch["attention_mask"].device), batch, layer, roles)

    def teacher_on(self, device: torch.device) -> Classifier:
        """The teacher, on a device.

        Raises:
            ValueError: If there is none.
        """
        if self.model is None:
            raise ValueError("distillation needs a teacher to look at: gather comes before the training")
        return self.model.to(device)
