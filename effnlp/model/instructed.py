"""A model that judges, with one head for every task, how well a sentence about a class goes with a text.

Source: Sanh et al. (2022), https://arxiv.org/abs/2110.08207, for tasks as text; a sentence a class with one score each:
Wang et al. (2021), https://arxiv.org/abs/2104.14690

Legend: B batch, T tokens, C classes, P tokens of the longest sentence.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch
from effnlp.model.classifier import Classifier, Tokenizer

LEAST_ROOM = 8
"""Tokens that must be left for a text beside the longest sentence."""


class Sentences(nn.Module):
    """The sentences of one task as ids, a sentence for each class.

    They are no weights: what is stored of a model does not hold them.

    Args:
        tokenizer: Of the model; a sentence is put where it puts the second text of a pair.
        sentences: One a class.

    Raises:
        ValueError: If it does not put the second text of a pair after the first.
    """

    ids: Tensor
    lengths: Tensor

    def __init__(self, tokenizer: Tokenizer, sentences: Sequence[str]) -> None:
        super().__init__()
        alone = tokenizer.encode(["a"])
        beside = tokenizer.encode(["a"] * len(sentences), list(sentences))
        rows = [beside.ids[a:b].tolist() for a, b in zip(beside.offsets, beside.offsets[1:], strict=False)]
        start = len(alone.ids)
        if any(row[:start] != alone.ids.tolist() for row in rows):
            raise ValueError("the tokenizer does not put the second text of a pair after the first")
        tails = [row[start:] for row in rows]
        self.pad_id, self.has_types = beside.pad_id, beside.type_ids is not None
        longest = max(map(len, tails))
        padded = [[*tail, *[self.pad_id] * (longest - len(tail))] for tail in tails]
        self.register_buffer("ids", torch.tensor(padded), persistent=False)  # (C, P)
        self.register_buffer("lengths", torch.tensor([len(t) for t in tails]), persistent=False)  # (C,)

    def after(self, batch: Batch, max_length: int) -> Batch:
        """Each text with each sentence after it, B·C texts, those of one text one after another.

        A text that leaves no room is cut at its end.
        """
        ids, ends = batch["input_ids"], batch["attention_mask"].sum(1)  # (B, T), (B,)
        (size, length), (classes, longest) = ids.shape, self.ids.shape
        width = min(length + longest, max_length)  # T'
        kept = ends.clamp_max(max_length - longest)[:, None, None]  # (B, 1, 1)
        place = (
            torch.arange(width, device=ids.device) - kept
        )  # (B, 1, T'), from the sentence's first token on
        text = nn.functional.pad(ids, (0, longest), value=self.pad_id)[:, None, :width]  # (B, 1, T')
        at = place.clamp(0, longest - 1).expand(size, classes, width)  # (B, C, T')
        sentence = self.ids.expand(size, classes, longest).gather(2, at)  # (B, C, T')
        of_sentence = (place >= 0) & (place < self.lengths[:, None])  # (B, C, T')
        rest = torch.where(of_sentence, sentence, self.pad_id)
        made = {
            "input_ids": torch.where(place < 0, text, rest),
            "attention_mask": ((place < 0) | of_sentence).long(),
        }
        if self.has_types:
            made["token_type_ids"] = of_sentence.long()
        return {name: tensor.flatten(0, 1) for name, tensor in made.items()}  # (B·C, T')


class InstructedModel(nn.Module):
    """Maps a batch to a score for each class of a task, (B, C), at the cost of C texts for each.

    Args:
        model: Its encoder is taken; its head, which is of classes, is not.
        sentences: Task to its sentences; of the first the model answers if nothing else is asked.
        max_length: Longest input in tokens.

    Raises:
        ValueError: If a sentence leaves no room for a text.
    """

    not_exported = (
        "a model that reads a sentence for each class has no ONNX form; a folder of effnlp pick keeps it"
    )

    def __init__(self, model: Classifier, sentences: Mapping[str, Sentences], max_length: int) -> None:
        super().__init__()
        for name, each in sentences.items():
            if (room := max_length - each.ids.shape[1]) < LEAST_ROOM:
                raise ValueError(
                    f"the sentences of task {name} leave {max(0, room)} of {max_length} tokens for a text, which needs "
                    f"{LEAST_ROOM}: give shorter ones, or a larger model.max_length"
                )
        self.encoder, self.dropout = model.encoder, model.dropout
        self.head = nn.Linear(model.head.in_features, 1)
        self.names, self.max_length = list(sentences), max_length
        self.sentences = nn.ModuleList(sentences.values())

    def scores(self, batch: Batch, task: int) -> Tensor:
        """(B, C) for the classes of one of the tasks."""
        sentences = self.sentences[task]
        assert isinstance(sentences, Sentences)
        given = sentences.after(batch, self.max_length)
        return self.head(self.dropout(self.encoder(given))).view(len(batch["input_ids"]), -1)

    def forward(self, batch: Batch) -> Tensor:
        """(B, C) for the classes of the first task."""
        return self.scores(batch, 0)

    def of_task(self, name: str, sentences: Sentences) -> "InstructedModel":
        """The same model, its weights shared, that answers another task."""
        other = copy.copy(self)
        other.names = [name]
        other._modules = {**self._modules, "sentences": nn.ModuleList([sentences])}
        return other.train(self.training)
