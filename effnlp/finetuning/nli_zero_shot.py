"""Classes told apart by entailment: does it follow from a text that it is about the label? No training.

Source: Yin et al. (2019), https://arxiv.org/abs/1909.00161
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from effnlp.data.examples import Examples
from effnlp.data.prepare import Prepared, encoded_by
from effnlp.finetuning.judge import ACCURACY
from effnlp.finetuning.phrasings import PHRASINGS, phrasing_of
from effnlp.menu import suggest
from effnlp.method import note
from effnlp.model.entailment import EntailmentModel, PremiseTokenizer
from effnlp.model.storage import Deployed
from effnlp.model.subwords import SubwordTokenizer
from effnlp.record import Record
from effnlp.task.task import Task

ENTAILMENT = "entailment"
WITH_ABOUT = tuple(name for name, known in PHRASINGS.items() if known.about)

CONTAMINATED = {"minilm": "all-MiniLM-L6-v2 was trained on pairs of SNLI and MultiNLI before the run"}
"""Name of a pretrained model to why it had seen entailment before."""


def refuse(
    task: Task, about: Mapping[str, str] | None = None, hypothesis: str | None = None, **_: Any
) -> None:
    """Say before the run what cannot be told by entailment.

    Raises:
        ValueError: If the task has no classes, or pairs of texts, or a label lacks what a text is about.
    """
    if not task.labels:
        raise ValueError(f"finetuning=nli_zero_shot tells classes apart, and task {task.name} has none")
    if task.is_pair:
        raise ValueError(
            f"finetuning=nli_zero_shot puts a hypothesis after each text, and task {task.name} has pairs of texts"
        )
    hypotheses_of(task, about, hypothesis)


def hypotheses_of(task: Task, about: Mapping[str, str] | None, hypothesis: str | None) -> list[str]:
    """One hypothesis for each label, in their order.

    Raises:
        ValueError: As :func:`refuse`; also if ``hypothesis`` has no place for the label.
    """
    if about is None:
        about = phrasing_of(task, "finetuning.about", WITH_ABOUT).about
    if hypothesis is None:
        hypothesis = (
            PHRASINGS[task.name].hypothesis if task.name in WITH_ABOUT else "This text is about {label}."
        )
    if hypothesis.count("{label}") != 1:
        raise ValueError(f"finetuning.hypothesis needs {{label}} once, got {hypothesis!r}")
    labels = list(map(str, task.labels))
    if unknown := [name for name in about if name not in labels]:
        raise ValueError(
            f"finetuning.about names {unknown[0]!r}, no label of {task.name}{suggest(unknown[0], labels)}"
        )
    if missing := [label for label in labels if not about.get(label)]:
        raise ValueError(f"finetuning.about says nothing of label {missing[0]!r} of task {task.name}")
    return [hypothesis.replace("{label}", about[label]) for label in labels]


class NLIZeroShot:
    """The choice ``finetuning=nli_zero_shot``.

    Args:
        entailment: Folder of a finished run on pairs with a label ``entailment`` (``task=snli``). Its model answers;
            the run's own ``model`` must be the same choice with the same settings.
        about: Label to what a text with it is about. None: what is known of the task.
        hypothesis: Text with the place ``{label}``. None: what is known of the task, or one for all.

    Raises:
        ValueError: If ``entailment`` is not given.
    """

    judge = ACCURACY
    trains = False

    def __init__(
        self,
        entailment: str | None = None,
        about: Mapping[str, str] | None = None,
        hypothesis: str | None = None,
    ) -> None:
        if not entailment:
            raise ValueError(
                "finetuning.entailment must be the folder of a finished run on pairs, as of effnlp run task=snli"
            )
        self.folder, self.about, self.hypothesis = Path(entailment).expanduser(), about, hypothesis
        self.notes: dict[str, Any] = {}

    def read_config(self, config: Mapping[str, Any]) -> None:
        """Hold the run's config against that of the run whose model answers.

        Raises:
            ValueError: If there is no finished run, or it has another model.
        """
        try:
            record = Record.load(self.folder)
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"finetuning.entailment={self.folder} is no folder of a run: {error}") from error
        if not (self.folder / "deployed.pt").is_file():
            raise ValueError(
                f"finetuning.entailment={self.folder} holds no deployed.pt: was it keep_model=false?"
            )
        for group in ("model", "pretraining"):
            theirs, ours = record.config.get(group), config.get(group)
            if theirs != ours:
                differing = [
                    key
                    for key in {**(theirs or {}), **(ours or {})}
                    if (theirs or {}).get(key) != (ours or {}).get(key)
                ]
                raise ValueError(
                    f"the model of {self.folder} answers, so that {group} must be as there: it differs in "
                    f"{', '.join(f'{group}.{key}' for key in differing)}"
                )
        self.notes = {
            "finetuning/entailment": {
                "run": record.identity.get("config_hash"),
                "task": record.identity.get("task"),
            }
        }
        if reason := CONTAMINATED.get(str(config["model"].get("name"))):
            self.notes["contaminated"] = reason

    def pose(
        self,
        model: nn.Module,  # noqa: ARG002 - the model of the other run answers
        data: Prepared,
        ask: Callable[[nn.Module, Examples], Tensor],  # noqa: ARG002 - nothing is asked before the evaluation
        seed: int,  # noqa: ARG002
    ) -> tuple[nn.Module, Prepared]:
        """The model of the other run with a hypothesis for each class, and the texts as its premises.

        Raises:
            ValueError: If it does not read pairs of subwords with a label ``entailment``.
        """
        deployed = Deployed.load(self.folder / "deployed.pt")
        labels = list(map(str, deployed.labels))
        if (
            not deployed.is_pair
            or ENTAILMENT not in labels
            or not isinstance(deployed.tokenizer, SubwordTokenizer)
        ):
            raise ValueError(
                f"finetuning.entailment={self.folder} must hold a model of pairs of texts with a label "
                f"{ENTAILMENT!r} and a tokenizer of subwords; it has the labels {', '.join(map(repr, labels))}"
            )
        tokenizer = PremiseTokenizer(
            deployed.tokenizer, hypotheses_of(data.task, self.about, self.hypothesis)
        )
        answering = EntailmentModel(deployed.model, tokenizer, labels.index(ENTAILMENT))
        note(answering, "finetuning", {"hypotheses": len(tokenizer.tails)})
        return answering, replace(encoded_by(data, tokenizer), labels_seen=0)
