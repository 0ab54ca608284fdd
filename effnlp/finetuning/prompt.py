"""The task as text: a template asks, and the words of a class are its answer; with or without training.

Source: Schick and Schütze (2021), https://arxiv.org/abs/2001.07676; demonstrations: Brown et al. (2020),
https://arxiv.org/abs/2005.14165; calibration: Zhao et al. (2021), https://arxiv.org/abs/2102.09690; search without
labels: Sorensen et al. (2022), https://arxiv.org/abs/2203.11364

Without ``train`` nothing is trained: the labels that are looked at are those of the demonstrations and, where templates
are searched by accuracy, those of the texts that they are tried on.

Legend: N texts, C classes.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from effnlp.data.encodings import Batch
from effnlp.data.examples import Examples
from effnlp.data.prepare import Prepared, encoded_by
from effnlp.data.template import Demonstration, Pieces, PromptTokenizer, Template, parse
from effnlp.finetuning.adamw import Descent
from effnlp.finetuning.judge import ACCURACY
from effnlp.finetuning.phrasings import phrasing_of
from effnlp.menu import suggest
from effnlp.method import note
from effnlp.model.language import TokenModel
from effnlp.model.subwords import mask_id
from effnlp.model.verbalised import VerbalisedModel
from effnlp.task.task import Task

if TYPE_CHECKING:
    from pytorch_lightning import Callback

REQUIRES = {"build": ("token_head",)}

SEARCHED_BY = ("accuracy", "mutual_information")
CONTENT_FREE = ("N/A", "", "[MASK]")
"""Inputs that say nothing, as in the paper on calibration."""

Ask = Callable[[nn.Module, Examples], Tensor]
"""Logits (N, C) of examples, counted into the open stage."""

log = logging.getLogger(__name__)


def refuse(
    task: Task,
    templates: Sequence[str] | None = None,
    words: Mapping[str, Any] | None = None,
    **_: Any,
) -> None:
    """Say before the training what cannot be asked in words.

    Raises:
        ValueError: If the task has no classes, nothing is known of how to put it in words and nothing is given, a
            template lacks a place, or a label lacks a word.
    """
    if not task.labels:
        raise ValueError(
            f"finetuning=prompt answers with words for classes, and task {task.name} has none: give "
            "finetuning=regress or finetuning=causal_lm"
        )
    for template in templates_of(task, templates, is_masked=True):
        parse(template, task.is_pair)
    words_of(task, words)


def templates_of(task: Task, templates: Sequence[str] | None, is_masked: bool) -> list[str]:
    """The templates to try: those given, or the first one that is known for the task.

    Raises:
        ValueError: If none is given and none is known, or ``templates`` is no list.
    """
    if templates is None:
        known = phrasing_of(task, "finetuning.templates")
        return [(known.masked if is_masked else known.causal)[0]]
    if isinstance(templates, str) or not templates:
        raise ValueError(f"finetuning.templates must be a list with at least one template, got {templates!r}")
    return list(templates)


def words_of(task: Task, words: Mapping[str, Any] | None) -> list[list[str]]:
    """For each label its words, in the order of the labels.

    Raises:
        ValueError: If a label has none, or words are given for one that there is not.
    """
    if words is None:
        words = phrasing_of(task, "finetuning.words").words
    labels = list(map(str, task.labels))
    if unknown := [name for name in words if name not in labels]:
        raise ValueError(
            f"finetuning.words names {unknown[0]!r}, no label of {task.name}{suggest(unknown[0], labels)}"
        )
    found = [[of] if isinstance(of := words.get(label, ()), str) else list(of) for label in labels]
    for label, of_label in zip(labels, found, strict=True):
        if not of_label or not all(isinstance(word, str) and word.strip() for word in of_label):
            raise ValueError(
                f"label {label!r} of task {task.name} has no word to answer with: give finetuning.words="
                f"{{{', '.join(f'{name}: …' for name in labels)}}}"
            )
    return found


def draw_balanced(labels: np.ndarray, count: int, generator: torch.Generator) -> list[int]:
    """Positions of ``count`` examples, drawn class by class in turn, in random order.

    Args:
        labels: (N,) int64.

    Raises:
        ValueError: If there are fewer examples than asked for.
    """
    if count > len(labels):
        raise ValueError(f"{count} examples cannot be drawn from {len(labels)}")
    order = torch.randperm(len(labels), generator=generator).tolist()
    queues = [[i for i in order if labels[i] == label] for label in sorted(set(labels.tolist()))]
    drawn: list[int] = []
    while len(drawn) < count:
        for queue in queues:
            if queue and len(drawn) < count:
                drawn.append(queue.pop())
    return [drawn[i] for i in torch.randperm(count, generator=generator).tolist()]


def mutual_information(logits: Tensor) -> float:
    """Nats that an answer tells of its text: entropy of the mean answer less the mean entropy, of logits (N, C)."""
    answers = logits.double().softmax(1)  # (N, C)

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp_min(1e-300).log()).sum(-1)

    return float(entropy(answers.mean(0)) - entropy(answers).mean())


class Prompt:
    """The choice ``finetuning=prompt``.

    Args:
        templates: Texts with the places ``{text}``, ``{answer}`` and, for pairs, ``{text_pair}``. Of several the best
            is taken. None: what is known of the task.
        words: Label to a word or several; their mean probability counts. None: what is known of the task.
        shots: Demonstrations in all, drawn class by class in turn from the training split; come before each text.
        calibrate: Whether answers are divided by what inputs without content get. Not with ``train``.
        search_examples: Training texts on which several templates are tried.
        search_by: ``accuracy``, or ``mutual_information``, which looks at no label.
        train: Whether whatever is trainable is trained to give the right answer.
        learning_rate: See :class:`~effnlp.finetuning.adamw.Descent`.
        weight_decay: As above.
        warmup_fraction: As above.
        layer_decay: As above.
        gradual_unfreezing: As above.

    Raises:
        ValueError: If a value is outside its range.
    """

    judge = ACCURACY
    wants_token_head = True

    def __init__(
        self,
        templates: Sequence[str] | None = None,
        words: Mapping[str, Any] | None = None,
        shots: int = 0,
        calibrate: bool = False,
        search_examples: int = 200,
        search_by: str = "accuracy",
        train: bool = False,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        layer_decay: float = 1.0,
        gradual_unfreezing: float = 0.0,
    ) -> None:
        self.descent = Descent(learning_rate, weight_decay, warmup_fraction, layer_decay, gradual_unfreezing)
        for name, value, least in (("shots", shots, 0), ("search_examples", search_examples, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"finetuning.{name} must be a whole number of at least {least}, got {value!r}"
                )
        if search_by not in SEARCHED_BY:
            raise ValueError(f"finetuning.search_by must be {' or '.join(SEARCHED_BY)}, got {search_by!r}")
        if calibrate and train:
            raise ValueError(
                "finetuning.calibrate divides by the answers of a model that is not trained: give calibrate=false, "
                "or train=false"
            )
        self.templates, self.words, self.shots = templates, words, shots
        self.calibrate, self.trains = calibrate, train
        self.search_examples, self.search_by = search_examples, search_by

    def pose(self, model: nn.Module, data: Prepared, ask: Ask, seed: int) -> tuple[nn.Module, Prepared]:
        """The model as it answers, and the data as it is asked.

        Args:
            model: With its head of tokens.
            ask: Asks a model.
            seed: Of the demonstrations, and of the texts on which templates are tried.

        Raises:
            ValueError: If the tokenizer has no mask, a masked model would have to answer with several tokens, a
                template does not end with the answer where it must, or there is no room for a text.
        """
        assert isinstance(model, TokenModel)
        is_masked = not model.predicts_next
        words = words_of(data.task, self.words)
        choices = [parse(t, data.task.is_pair) for t in templates_of(data.task, self.templates, is_masked)]
        posed = [self._posed(model, data, template, words, seed) for template in choices]
        scores = [0.0] * len(choices)
        labels = set(self._shown(data, seed))
        if len(choices) > 1:
            tried = self._tried(data, seed)
            labels |= set(tried) if self.search_by == "accuracy" else set()
            scores = [self._score(answering, tokenizer, data, tried, ask) for answering, tokenizer in posed]
        best = max(range(len(choices)), key=lambda i: (scores[i], -i))
        answering, tokenizer = posed[best]
        if self.calibrate:
            empty = pd.DataFrame(dict.fromkeys(_columns(data), CONTENT_FREE))
            answering.calibrate(ask(answering, _examples(tokenizer, empty)))
        log.info("asked as %r", choices[best].text)
        note(
            answering,
            "finetuning",
            {"template": best, **{f"score_{i}": score for i, score in enumerate(scores)}},
        )
        posed_data = encoded_by(data, tokenizer)
        return answering, posed_data if self.trains else replace(posed_data, labels_seen=len(labels))

    def _posed(
        self, model: TokenModel, data: Prepared, template: Template, words: list[list[str]], seed: int
    ) -> tuple[VerbalisedModel, PromptTokenizer]:
        tokenizer: Any = data.tokenizer
        is_masked = not model.predicts_next
        pieces = Pieces(tokenizer)
        ids = [[pieces.answer(word, template) for word in of_label] for of_label in words]
        if is_masked:
            _refuse_long(words, ids, tokenizer)
        longest = max(len(word) for of_label in ids for word in of_label)
        rows = [data.train.iloc[i] for i in self._shown(data, seed)]
        shown = [
            Demonstration(
                row["text"], row["text_pair"] if data.task.is_pair else None, words[int(row["label"])][0]
            )
            for row in rows
        ]
        reserve = longest if longest > 1 else 0
        asked = PromptTokenizer(tokenizer, template, is_masked, reserve, shown)
        mask = mask_id(tokenizer) if is_masked else None
        return VerbalisedModel(model, ids, mask, tokenizer.max_length), asked

    def _shown(self, data: Prepared, seed: int) -> list[int]:
        """Rows of the training table that are demonstrations."""
        generator = torch.Generator().manual_seed(seed)
        return draw_balanced(data.train["label"].to_numpy(), self.shots, generator)

    def _tried(self, data: Prepared, seed: int) -> list[int]:
        """Rows of the training table on which templates are tried; none is a demonstration."""
        shown = set(self._shown(data, seed))
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed + 1)).tolist()
        return [i for i in order if i not in shown][: self.search_examples]

    def _score(
        self, model: VerbalisedModel, tokenizer: PromptTokenizer, data: Prepared, rows: list[int], ask: Ask
    ) -> float:
        table = data.train.iloc[rows]
        logits = ask(model, _examples(tokenizer, table[_columns(data)]))
        if self.search_by == "mutual_information":
            return mutual_information(logits)
        return float((logits.argmax(1) == torch.tensor(table["label"].to_numpy())).double().mean())

    def objective(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the batch among the classes: a scalar."""
        return F.cross_entropy(model(batch), batch["labels"])

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """AdamW over all parameters, and its schedule."""
        return self.descent.optimizer(model, steps)

    def callbacks(self) -> "list[Callback]":
        """What freezes and frees layers."""
        return self.descent.callbacks()


def _columns(data: Prepared) -> list[str]:
    return ["text", "text_pair"] if data.task.is_pair else ["text"]


def _examples(tokenizer: PromptTokenizer, table: pd.DataFrame) -> Examples:
    pairs = table["text_pair"].tolist() if "text_pair" in table.columns else None
    encodings = tokenizer.encode(table["text"].tolist(), pairs)
    return Examples(encodings, np.zeros(len(encodings), dtype=np.int64))


def _refuse_long(words: list[list[str]], ids: list[list[list[int]]], tokenizer: Any) -> None:
    """A masked model answers with one token.

    Raises:
        ValueError: Naming the word and the tokens that it would take.
    """
    for of_label, tokens in zip(words, ids, strict=True):
        for word, numbers in zip(of_label, tokens, strict=True):
            if len(numbers) != 1:
                named = ", ".join(repr(tokenizer.backend.id_to_token(number)) for number in numbers)
                raise ValueError(
                    f"a masked model answers with one token, and {word!r} is {len(numbers)} ({named}): give other "
                    "finetuning.words, or a model that predicts next tokens"
                )
