"""A model of pairs that tells classes apart by what it holds for entailed: one hypothesis for each class.

Source: Yin et al. (2019), https://arxiv.org/abs/1909.00161

Legend: B batch, T tokens, C classes, L tokens of the longest hypothesis with what stands around it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch, Encodings
from effnlp.data.template import MIN_ROOM, Pieces
from effnlp.model.subwords import SubwordTokenizer


class PremiseTokenizer:
    """Texts as the first of a pair, with room for a second one of at most ``reserve`` tokens. Picklable.

    Args:
        tokenizer: Of the model of pairs.
        hypotheses: One for each class.

    Raises:
        ValueError: If they leave no room for a text.
    """

    def __init__(self, tokenizer: SubwordTokenizer, hypotheses: Sequence[str]) -> None:
        self.pieces, self.pad_id = Pieces(tokenizer), tokenizer.pad_id
        around = tokenizer.backend.encode("a", "b")
        places = [i for i, special in enumerate(around.special_tokens_mask) if not special]
        first = [i for i in places if around.sequence_ids[i] == 0]
        second = [i for i in places if around.sequence_ids[i] == 1]
        self.before = around.ids[: first[0]]
        between, after = around.ids[first[-1] + 1 : second[0]], around.ids[second[-1] + 1 :]
        types = around.type_ids
        self.tails: list[list[int]] = []
        self.tail_types: list[list[int]] = []
        for ids in self._ids(hypotheses):
            self.tails.append([*between, *ids, *after])
            self.tail_types.append(
                [*types[first[-1] + 1 : second[0]], *[types[second[0]]] * len(ids), *types[second[-1] + 1 :]]
            )
        self.has_types = tokenizer.type_ids
        self.max_length = tokenizer.max_length
        self.room = self.max_length - len(self.before) - max(map(len, self.tails))
        if self.room < MIN_ROOM:
            raise ValueError(
                f"the hypotheses leave {max(0, self.room)} of {self.max_length} tokens for a text, which needs "
                f"{MIN_ROOM}: give shorter ones"
            )

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        space = " " if self.pieces.begins_with_space else ""
        return self.pieces.ids([f"{space}{text}" if text else text for text in texts])

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encodings:
        """Ids of each text, cut so that every hypothesis has room after it.

        Raises:
            ValueError: If pairs are given: there is one text for each class already.
        """
        if pairs is not None:
            raise ValueError("the model puts a hypothesis after each text, and reads single texts")
        rows = self._ids(texts)
        cut = sum(len(row) > self.room for row in rows)
        return Encodings.from_lists(
            [[*self.before, *row[: self.room]] for row in rows], self.pad_id, truncated=cut
        )


class EntailmentModel(nn.Module):
    """Maps a batch of texts to a score for each class, (B, C): the log-probability that its hypothesis is entailed.

    A text costs C forward passes.

    Args:
        pairs: The model of pairs; its logits are (B, classes of pairs).
        tokenizer: What comes after a text.
        entailed: Which of its classes is entailment.
    """

    not_exported = (
        "a model that puts hypotheses after texts has no ONNX form; a folder of effnlp pick keeps it"
    )
    tails: Tensor
    types: Tensor
    lengths: Tensor

    def __init__(self, pairs: nn.Module, tokenizer: PremiseTokenizer, entailed: int) -> None:
        super().__init__()
        self.pairs, self.entailed = pairs, entailed
        self.max_length, self.has_types = tokenizer.max_length, tokenizer.has_types
        longest = max(map(len, tokenizer.tails))

        def padded(rows: list[list[int]], fill: int) -> Tensor:
            return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])

        self.register_buffer("tails", padded(tokenizer.tails, tokenizer.pad_id))  # (C, L)
        self.register_buffer("types", padded(tokenizer.tail_types, 0))  # (C, L)
        self.register_buffer("lengths", torch.tensor([len(tail) for tail in tokenizer.tails]))  # (C,)

    @property
    def encoder(self) -> nn.Module:
        """That of the model of pairs."""
        encoder = self.pairs.encoder
        assert isinstance(encoder, nn.Module)
        return encoder

    @property
    def head(self) -> nn.Module:
        """That of the model of pairs."""
        head = self.pairs.head
        assert isinstance(head, nn.Module)
        return head

    def forward(self, batch: Batch) -> Tensor:
        """(B, C)."""
        size, count = len(batch["input_ids"]), len(self.tails)
        logits = self.pairs(self.with_hypotheses(batch))  # (B C, classes of pairs)
        return logits.float().log_softmax(1)[:, self.entailed].view(size, count)  # (B, C)

    def with_hypotheses(self, batch: Batch) -> Batch:
        """Every text with every hypothesis after it: a batch of B C pairs, those of a text one after another."""
        ids, ends = batch["input_ids"], batch["attention_mask"].sum(1)  # (B, T), (B,)
        size, (count, longest) = len(ids), self.tails.shape
        width = min(ids.shape[1] + longest, self.max_length)
        shape = (size, count, longest)
        wide = nn.functional.pad(ids, (0, max(0, width - ids.shape[1])))[:, :width]  # (B, T')
        places = (ends[:, None] + torch.arange(longest, device=ids.device))[:, None].expand(
            shape
        )  # (B, C, L)
        rows = wide[:, None].expand(size, count, width).clone()  # (B, C, T')
        rows.scatter_(2, places, self.tails.expand(shape))
        seen = (
            torch.arange(width, device=ids.device) < (ends[:, None] + self.lengths)[..., None]
        )  # (B, C, T')
        made = {"input_ids": rows.flatten(0, 1), "attention_mask": seen.long().flatten(0, 1)}
        if self.has_types:
            types = torch.zeros_like(rows).scatter_(2, places, self.types.expand(shape))  # (B, C, T')
            made["token_type_ids"] = types.flatten(0, 1)
        return made
