"""Vocabulary pruning: tokens that the training texts do not use lose their embedding, and are read as unknown.

Source: Abdaoui et al. (2020), https://arxiv.org/abs/2010.05609

Legend: V ids of the tokenizer, K rows that stay, D width of the table, B texts, T tokens.
"""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effnlp.data.prepare import Prepared
from effnlp.method import note
from effnlp.model.language import TiedHead
from effnlp.model.subwords import SubwordTokenizer, special_ids, unknown_id
from effnlp.model.surgery import encoder_of, replace_layers

REQUIRES = {"finish": ("token_sequence", "own_head", "float_linear_layers")}

Ids = NDArray[np.int64]


def kept_ids(counts: Ids, always: Ids, min_count: int, target_size: int | None = None) -> Ids:
    """The ids that stay, ascending.

    Args:
        counts: (V,) how often the texts have each.
        always: Ids that stay whatever their count.
        min_count: The others stay that are there at least so often.
        target_size: How many stay at most, the most frequent first, of equal ones the lowest ids; None: no limit.

    Raises:
        ValueError: If ``target_size`` has no room for those that always stay, and one more.
    """
    always = np.unique(always)
    candidates = np.setdiff1d(np.flatnonzero(counts >= min_count), always)
    if target_size is not None:
        room = target_size - len(always)
        if room < 1:
            raise ValueError(
                f"target_size must leave room for a token beside the {len(always)} that always stay, got {target_size}"
            )
        candidates = np.sort(candidates[np.argsort(-counts[candidates], kind="stable")[:room]])
    return np.union1d(always, candidates)


class KeptRows(nn.Module):
    """A table of token embeddings without most of its rows, read by the ids of the whole vocabulary.

    Row 0 stands for every id whose row is gone: the unknown token's, or, where the tokenizer has none, the mean of the
    rows that went. ``row_of_id`` is then zero for most ids, and stored packed (:mod:`effnlp.model.sparse`).

    Args:
        table: V rows; left as it is.
        kept: (K,) ids whose rows stay, ascending.
        unknown: One of them; None: there is none, and a row is added.
    """

    row_of_id: Tensor

    def __init__(self, table: nn.Embedding, kept: Tensor, unknown: int | None) -> None:
        super().__init__()
        weight = table.weight.detach()
        kept = kept.to(weight.device)
        row_of_id = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)  # (V,)
        if unknown is None:
            gone = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
            gone[kept] = False
            first = weight[gone].mean(0, keepdim=True)  # (1, D)
        else:
            kept = kept[kept != unknown]
            first = weight[unknown : unknown + 1]
        row_of_id[kept] = torch.arange(1, len(kept) + 1, dtype=torch.int32, device=weight.device)
        small = copy.deepcopy(table)
        small.weight = nn.Parameter(
            torch.cat([first, weight[kept]]), requires_grad=table.weight.requires_grad
        )
        small.num_embeddings = len(small.weight)
        if table.padding_idx is not None:
            small.padding_idx = int(row_of_id[table.padding_idx])
        self.table = small
        self.register_buffer("row_of_id", row_of_id)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, T) below V to embeddings (B, T, D)."""
        return self.table(self.row_of_id[ids])


class Prune:
    """Texts are tokenised as before; what is smaller is the table behind the ids, beside which a map of them is kept.

    Special tokens always stay. How many tokens of the validation split are read as unknown is noted. The texts counted
    are those of the training split after all filters, of all tasks, without what a distillation adds to them.

    Args:
        min_count: Tokens that the training texts have less often lose their embedding; 0: none does.
        target_size: How many embeddings stay at most, special tokens included; None: no limit.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(self, min_count: int = 1, target_size: int | None = None) -> None:
        if min_count < 0:
            raise ValueError(f"min_count must be at least 0, got {min_count}")
        if target_size is not None and target_size < 1:
            raise ValueError(f"target_size must be at least 1, or null for no limit, got {target_size}")
        self.min_count, self.target_size = min_count, target_size
        self._kept: Ids | None = None
        self._unknown: int | None = None
        self._said: dict[str, float] = {}

    def check(self, model: nn.Module) -> None:
        """Refuse a model whose table is not read by the encoder's input alone."""
        table_of(model)

    def read_data(self, data: Prepared) -> None:
        """Choose the ids that stay.

        Raises:
            ValueError: If the tokenizer is not one of subwords, or ``target_size`` is too small for it.
        """
        tokenizer = data.tokenizer
        if not isinstance(tokenizer, SubwordTokenizer):
            raise ValueError(
                f"vocabulary pruning needs a tokenizer of subwords, got {type(tokenizer).__name__}"
            )
        unknown = unknown_id(tokenizer)
        always = [*special_ids(tokenizer), tokenizer.pad_id, *([] if unknown is None else [unknown])]
        size = max(tokenizer.vocabulary_size, *(number + 1 for number in always))
        counts = np.bincount(data.examples["train"].encodings.ids, minlength=size)
        seen = np.bincount(data.examples["validation"].encodings.ids, minlength=len(counts))
        self.read_counts(counts, np.array(always), unknown, seen)

    def read_counts(self, counts: Ids, always: Ids, unknown: int | None, seen: Ids) -> None:
        """Choose the ids that stay, by how often the training texts have each, (V,).

        Args:
            always: Ids that stay.
            unknown: The id of the unknown token, if there is one.
            seen: (V',) how often the texts of the validation split have each id.
        """
        self._kept = kept_ids(counts, always, self.min_count, self.target_size)
        self._unknown = unknown
        plain = np.delete(np.arange(len(seen)), always[always < len(seen)])
        gone = np.setdiff1d(plain, self._kept)
        self._said = {
            "validation_tokens": float(seen[plain].sum()),
            "validation_tokens_unknown": float(seen[gone].sum()),
        }

    def finish(self, model: nn.Module) -> nn.Module:
        """Remove the rows, in place; where all stay, the model is left as it is.

        Raises:
            ValueError: If no texts were counted, or the table cannot be cut.
        """
        if self._kept is None:
            raise ValueError("vocabulary pruning keeps what training texts use: it must see them first")
        table = table_of(model)
        kept = torch.from_numpy(self._kept[self._kept < table.num_embeddings])
        rows = table.num_embeddings
        if len(kept) < rows:
            pruned = KeptRows(table, kept, self._unknown)
            replace_layers(model, tables_with(model, table), lambda _: pruned)
            rows = pruned.table.num_embeddings
        before = table.num_embeddings
        noted = {"rows_before": before, "rows": rows, "rows_removed": before - rows, **self._said}
        note(model, "compression/vocabulary", noted)
        return model


def table_of(model: nn.Module) -> nn.Embedding:
    """The token embeddings of a model's encoder.

    Raises:
        ValueError: If there are none in a plain table, or a head reads them, too.
    """
    encoder: Any = encoder_of(model)
    while not hasattr(encoder, "word_embeddings") and isinstance(
        getattr(encoder, "encoder", None), nn.Module
    ):
        encoder = encoder.encoder  # one that drops tokens wraps another
    if not hasattr(encoder, "word_embeddings"):
        raise ValueError(
            f"vocabulary pruning needs a table of tokens, which {type(encoder).__name__} does not have"
        )
    table = encoder.word_embeddings()
    if not isinstance(table, nn.Embedding):
        raise ValueError(f"vocabulary pruning needs a plain table of tokens, got a {type(table).__name__}")
    if len(tables_with(model, table)) < len(readers_of(model, table)) or any(
        isinstance(module, TiedHead) for module in model.modules()
    ):
        raise ValueError(
            "vocabulary pruning would take tokens from the head, which reads the table of token embeddings, too"
        )
    return table


def readers_of(model: nn.Module, table: nn.Embedding) -> list[nn.Module]:
    """The modules that have the weight of ``table``, it among them."""
    return [m for m in model.modules() if any(p is table.weight for p in m.parameters(recurse=False))]


def tables_with(model: nn.Module, table: nn.Embedding) -> list[nn.Module]:
    """Those of them that are tables: T5 has two over one weight."""
    return [module for module in readers_of(model, table) if isinstance(module, nn.Embedding)]
