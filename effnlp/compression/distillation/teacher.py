"""The teacher: the model of a finished run, held against the task and the tokens of the student.

Legend: N texts, C classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from effnlp.cache import code_version, key_of
from effnlp.data.examples import Examples
from effnlp.model.classifier import Classifier, LayeredEncoder
from effnlp.model.storage import Deployed
from effnlp.record import COMPLETED, Record
from effnlp.task.task import Task, table_fingerprint

if TYPE_CHECKING:
    from effnlp.gathering import Around

KEY = "compression.distillation.teacher"
FILE = "deployed.pt"
PAID = ("seconds", "cpu_seconds", "energy_joules", "co2e_grams", "flops")
"""What of a teacher's own cost is charged to its students."""


@dataclass(frozen=True)
class Teacher:
    """A model that has learned the task already.

    Attributes:
        deployed: Its model, which is never trained further, with its tokenizer and the names of its classes.
        folder: Of its run.
        record: Of its run.
        digest: SHA-256 of its file, 64 hex digits.
    """

    deployed: Deployed
    folder: Path
    record: Record
    digest: str

    def columns(self, task: Task) -> list[int]:
        """For each class of the task, which class of the teacher it is.

        Raises:
            ValueError: If the teacher tells other classes apart, or reads pairs where the task has single texts.
        """
        own, wanted = list(self.deployed.labels), list(task.labels)
        if sorted(own) != sorted(wanted):
            raise ValueError(
                f"{KEY}={self.folder} tells {_names(own)} apart, and task {task.name} has {_names(wanted)}: "
                "a teacher must have learned the same labels"
            )
        if self.deployed.is_pair != task.is_pair:
            kinds = {True: "pairs of texts", False: "single texts"}
            raise ValueError(
                f"{KEY}={self.folder} reads {kinds[self.deployed.is_pair]}, task {task.name} has "
                f"{kinds[task.is_pair]}"
            )
        return [own.index(label) for label in wanted]

    def by_layers(self, tokenizer: Any) -> Classifier:
        """Its model, whose layers are looked at while it reads the ids of the student's tokenizer.

        Raises:
            ValueError: If it cannot be run layer by layer, reads other tokens, or less of a text than the student.
        """
        model = self.deployed.model
        if not isinstance(model, Classifier) or not isinstance(model.encoder, LayeredEncoder):
            kind = type(getattr(model, "encoder", model)).__name__
            raise ValueError(
                f"{KEY}={self.folder} cannot be looked at layer by layer: it is a {kind}; "
                "compression/distillation=logits takes any teacher"
            )
        if (difference := difference_of(self.deployed.tokenizer, tokenizer)) is not None:
            raise ValueError(
                f"{KEY}={self.folder} reads other tokens than the student, {difference}; "
                "compression/distillation=logits takes a teacher with any tokenizer, and model.vocabulary gives a "
                "model from scratch the tokens of a pretrained one"
            )
        return model


def _names(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels)) or "no classes"


def difference_of(teacher: Any, student: Any) -> str | None:
    """Why the ids of the student's tokenizer are not the teacher's, in words; None if they are."""
    backends: list[Any] = [getattr(tokenizer, "backend", None) for tokenizer in (teacher, student)]
    if any(backend is None for backend in backends):
        return None if teacher == student else "whose ids are of another kind"
    if backends[0].get_vocab() != backends[1].get_vocab():
        sizes = [backend.get_vocab_size() for backend in backends]
        return f"whose vocabularies of {sizes[0]} and {sizes[1]} tokens differ"
    if teacher.max_length < student.max_length:
        return f"whose texts have up to {student.max_length} tokens where it reads {teacher.max_length}"
    texts = [_without_lengths(backend) for backend in backends]
    return None if texts[0] == texts[1] else "which cuts texts otherwise"


def _without_lengths(backend: Any) -> str:
    from tokenizers import Tokenizer

    copied = Tokenizer.from_str(backend.to_str())
    copied.no_truncation()
    copied.no_padding()
    return str(copied.to_str())


def load_teacher(folder: Path) -> Teacher:
    """The teacher in the folder of a run, which its record may stand for.

    Raises:
        ValueError: If it is not the folder of a completed run that kept its model.
    """
    if folder.name == "record.json":
        folder = folder.parent
    try:
        record = Record.load(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{KEY}={folder} is not the folder of a run: it has no record.json") from error
    if record.status != COMPLETED:
        raise ValueError(f"{KEY}={folder} must be a completed run, this one is {record.status}")
    if not (folder / FILE).is_file():
        raise ValueError(
            f"{KEY}={folder} has no {FILE}: its run did not keep its model (keep_model=true does)"
        )
    with (folder / FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    deployed = Deployed.load(folder / FILE)
    deployed.model.eval().requires_grad_(False)
    return Teacher(deployed, folder, record, digest)


def find_teacher(named: str | Sequence[str] | None, around: "Around") -> Teacher:
    """The teacher that a config names, paid for.

    Args:
        named: Folder or record.json of a run, or overrides of one that is done first, on the student's task.

    Raises:
        ValueError: If none is named, or it is no teacher.
    """
    if not named:
        raise ValueError(
            f"{KEY} must name a teacher: the folder of a run with its model, or a list of overrides of a run "
            "that is done first, as in ['model=pretrained','trainer.epochs=3']"
        )
    folder = Path(named) if isinstance(named, str) else around.train(named)
    teacher = load_teacher(folder)
    identity, values = teacher.record.identity, teacher.record.values
    if isinstance(named, str):
        own = {unit: values.get(f"cost/total/own/{unit}") for unit in PAID}
        around.reuse(f"teacher/{teacher.digest}", {unit: cost for unit, cost in own.items() if cost})
    said = {key: identity.get(key) for key in ("config_hash", "seed_init", "seed_order", "overrides", "task")}
    around.note("distillation/teacher", {**said, "folder": str(teacher.folder), "sha256": teacher.digest})
    return teacher


def logits_of(teacher: Teacher, texts: pd.DataFrame, columns: Sequence[int], around: "Around") -> Tensor:
    """(N, C) what the teacher says of texts, through its own tokenizer; asked once for all runs.

    Args:
        columns: For each class of the task, which class of the teacher it is.
    """
    texts = texts[[name for name in ("text", "text_pair") if name in texts.columns]]

    def make(folder: Path) -> None:
        pairs = texts["text_pair"].tolist() if "text_pair" in texts.columns else None
        encodings = teacher.deployed.tokenizer.encode(texts["text"].tolist(), pairs)
        logits = around.predict(teacher.deployed.model, Examples(encodings, np.zeros(len(texts))))
        np.save(folder / "logits.npy", logits.numpy())

    key = key_of(teacher.digest, table_fingerprint(texts), code_version(__name__, "effnlp.data.encodings"))
    found = np.load(around.fetch("teacher_logits", key, make) / "logits.npy")
    return torch.from_numpy(found)[:, list(columns)]


def with_classes(model: nn.Module, columns: Sequence[int]) -> nn.Module:
    """``model``, in place, with its classes in another order."""
    head = model.head
    assert isinstance(head, nn.Linear)
    if list(columns) != list(range(head.out_features)):
        head.weight = nn.Parameter(head.weight[list(columns)].clone(), requires_grad=False)
        head.bias = nn.Parameter(head.bias[list(columns)].clone(), requires_grad=False)
    return model
