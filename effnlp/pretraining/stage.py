"""The stage of a run in which a model learns from texts without labels, cached by its content.

A choice of the group ``pretraining`` has ``learn(start)``, which gives a choice of the group ``model`` that builds
what was learned, and its tokenizer.
"""

import functools
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pandas as pd
import torch
from torch import nn

from effnlp.attempt import AMORTISED, Attempt
from effnlp.cache import code_version, key_of
from effnlp.data.prepare import Fetch
from effnlp.evaluation.steps import MeterGauge
from effnlp.finetuning.loop import StepGauge
from effnlp.hardware.settings import Hardware
from effnlp.model.classifier import Classifier, ModelChoice, Tokenizer
from effnlp.model.language import TiedHead, TokenModel
from effnlp.model.subwords import SubwordTokenizer, with_mask
from effnlp.pretraining.corpus import read_corpus
from effnlp.pretraining.train import Objective, Report, Schedule, train
from effnlp.task.task import Task

CODE = (
    "effnlp.pretraining.stage", "effnlp.pretraining.corpus", "effnlp.pretraining.train",
    "effnlp.finetuning.adamw", "effnlp.model.backbone", "effnlp.model.subwords", "effnlp.model.language",
    "effnlp.data.encodings",
)  # fmt: skip
"""Modules whose source decides what is learned, beside those of the choices themselves."""


@dataclass(frozen=True)
class Start:
    """What a pre-training begins with.

    Attributes:
        choice: Of the group ``model``.
        config: Of that choice.
        task: Of the run.
        fetch: Of cached entries of this stage.
        note: Takes record keys below ``pretraining/``.
    """

    choice: ModelChoice
    config: Mapping[str, Any]
    task: Task
    fetch: Fetch
    hardware: Hardware
    gauge: StepGauge
    report: Report
    note: Callable[[dict[str, float]], None]


def start_of(choice: ModelChoice, config: Mapping[str, Any], task: Task, attempt: Attempt) -> Start:
    """What the pre-training of an attempt at a run begins with; the stage is open."""

    def report(values: dict[str, float], step: int) -> None:
        attempt.events.add("pretrain", step=step, **values)
        attempt.tracker.log(values, step, "pretraining")

    return Start(
        choice=choice,
        config=config,
        task=task,
        fetch=functools.partial(attempt.fetch, stage="pretraining", amounts=(*AMORTISED, "flops")),
        hardware=attempt.hardware,
        gauge=MeterGauge(attempt.meter, attempt.quiet),
        report=report,
        note=attempt.record.put,
    )


class Pretraining(Protocol):
    """What a config of the group ``pretraining`` names."""

    def learn(self, start: Start) -> tuple[ModelChoice, Tokenizer | None]:
        """A choice that builds what was learned, and its tokenizer; None: that of the choice itself."""
        ...


@dataclass(frozen=True)
class PretrainedChoice:
    """A choice of the group ``model`` whose weights were learned from texts.

    Attributes:
        choice: Builds the same model with fresh weights.
        learnt: The tokenizer that they were learned with.
        weights: File with the state of the encoder, ``encoder``, and of the head of its tokens, ``head``.
    """

    choice: ModelChoice
    learnt: SubwordTokenizer
    weights: Path
    tokenizer_keys: ClassVar[tuple[str, ...]] = ()

    def tokenizer(self, train: pd.DataFrame) -> SubwordTokenizer:  # noqa: ARG002 - it has learned already
        """The tokenizer of the corpus."""
        return self.learnt

    def build(self, tokenizer: Tokenizer, classes: int) -> Classifier:
        """The model with the weights that were learned, and a fresh head."""
        model = self.choice.build(tokenizer, classes)
        model.encoder.load_state_dict(self._weights()["encoder"])
        return model

    def with_token_head(self, model: nn.Module) -> TokenModel:
        """The encoder of a built model with the head of tokens that it was pre-trained with."""
        made = token_model(self.choice, model)
        made.head.load_state_dict(self._weights()["head"])
        return made

    def _weights(self) -> dict[str, dict[str, torch.Tensor]]:
        loaded: dict[str, dict[str, torch.Tensor]] = torch.load(self.weights, weights_only=True)
        return loaded


def token_model(choice: ModelChoice, model: nn.Module) -> TokenModel:
    """The encoder of a built model with a fresh head of tokens."""
    encoder = model.encoder
    assert isinstance(encoder, nn.Module)
    return TokenModel(encoder, TiedHead(encoder.tokens.num_embeddings), bool(choice.is_decoder))  # type: ignore[attr-defined, union-attr, arg-type]


def learn(
    objective: Objective,
    schedule: Schedule,
    corpus: Sequence[str],
    root: str | None,
    start: Start,
    settings: Mapping[str, Any],
    masks: bool,
) -> tuple[PretrainedChoice, SubwordTokenizer]:
    """Pre-train the model of ``start``, or find it in the cache.

    Args:
        settings: All that decides what is learned beside the model and the texts; part of the key.
        masks: Whether the tokenizer needs a token for what is to be guessed.
    """
    read = read_corpus(corpus, root, start.task, start.fetch)
    modules = [str(start.config["_target_"]).rpartition(".")[0], type(objective).__module__]
    key = key_of(
        start.config,
        dict(settings),
        read.fingerprints,
        start.hardware.precision,
        code_version(*modules, *CODE),
    )

    def make(folder: Path) -> None:
        table = pd.DataFrame({"text": read.texts})
        learned = start.choice.tokenizer(table)
        assert isinstance(learned, SubwordTokenizer)
        tokenizer = with_mask(learned) if masks else learned
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(schedule.seed)
            model = token_model(start.choice, start.choice.build(tokenizer, 1))
            learnt = train(
                model, objective, tokenizer, read.texts, schedule, start.hardware, start.gauge, start.report
            )
        weights = {"encoder": model.encoder.state_dict(), "head": model.head.state_dict()}
        torch.save(weights, folder / "weights.pt")
        (folder / "tokenizer.pickle").write_bytes(pickle.dumps(tokenizer))
        (folder / "learnt.json").write_text(json.dumps(asdict(learnt)), encoding="utf-8")

    folder = start.fetch("pretrained", key, make)
    tokenizer = pickle.loads((folder / "tokenizer.pickle").read_bytes())
    said = json.loads((folder / "learnt.json").read_text(encoding="utf-8"))
    start.note({f"pretraining/{name}": float(value) for name, value in said.items()})
    return PretrainedChoice(start.choice, tokenizer, folder / "weights.pt"), tokenizer
