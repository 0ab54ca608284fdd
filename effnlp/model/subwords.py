"""Subword tokenizers: one trained on a task's own texts, or one that came with a pretrained model."""

import json
from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from effnlp.data.encodings import Encodings

PAD, START, SEPARATOR = "[PAD]", "[CLS]", "[SEP]"
PAD_ID = 0  # the trainer numbers the special tokens first, in their order
MASK = "[MASK]"
MASKS = (MASK, "<mask>")
"""How tokenizers call the token that stands for one that is to be guessed."""


class SubwordTokenizer:
    """Ids of texts by a fast tokenizer. Picklable.

    Args:
        backend: Adds the special tokens itself. It is copied: its padding and truncation are set here.
        max_length: Longest input in tokens, special tokens included; longer texts are cut at their end,
            of a pair the longer text first.
        pad_id: What fills a row.
        type_ids: Whether pairs come with type ids. Single texts never do.
    """

    def __init__(self, backend: Tokenizer, max_length: int, pad_id: int, type_ids: bool = True) -> None:
        special = max(backend.num_special_tokens_to_add(is_pair) for is_pair in (False, True))
        if max_length <= special:
            raise ValueError(f"max_length must exceed the {special} special tokens, got {max_length}")
        self.backend = Tokenizer.from_str(backend.to_str())
        self.backend.no_padding()
        self.backend.enable_truncation(max_length, strategy="longest_first")
        self.max_length = max_length
        self.pad_id = pad_id
        self.type_ids = type_ids

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are, special tokens included."""
        return self.backend.get_vocab_size()

    def byte_lengths(self) -> np.ndarray:
        """(V,) int64: how many UTF-8 bytes of a text each id stands for; special tokens stand for none.

        Raises:
            ValueError: If ids do not tell: the tokenizer changes texts, or does not take them as bytes.
        """
        settings = json.loads(self.backend.to_str())
        splitter = settings["pre_tokenizer"] or {}
        if settings["normalizer"] or splitter.get("type") != "ByteLevel" or splitter["add_prefix_space"]:
            raise ValueError(
                "bytes per token, by which language models are compared, cannot be told from ids: the tokenizer does "
                "not keep texts byte by byte as given (that of model=decoder, GPT-2 or Qwen does)"
            )
        special = {token["id"] for token in settings["added_tokens"]}
        lengths = np.zeros(self.vocabulary_size, dtype=np.int64)
        for token, number in self.backend.get_vocab().items():
            lengths[number] = 0 if number in special else len(token)  # a byte is a character here
        return lengths

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encodings:
        """Ids of each text (with its partner, for pairs), cut at ``max_length``.

        Raises:
            ValueError: If ``pairs`` has another length than ``texts``.
        """
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        rows = self.backend.encode_batch_fast(inputs)
        return Encodings.from_lists(
            [row.ids for row in rows],
            self.pad_id,
            [row.type_ids for row in rows] if pairs is not None and self.type_ids else None,
            truncated=sum(bool(row.overflowing) for row in rows),
        )


def plain_ids(tokenizer: SubwordTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of the texts alone: nothing is added, nothing is cut, and the name of a special token is plain text."""
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.no_truncation()
    backend.encode_special_tokens = True
    return [row.ids for row in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def with_mask(tokenizer: SubwordTokenizer) -> SubwordTokenizer:
    """The same tokenizer with one more id, the last one, for a token that is to be guessed."""
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens([MASK])
    return SubwordTokenizer(backend, tokenizer.max_length, tokenizer.pad_id, tokenizer.type_ids)


def mask_id(tokenizer: SubwordTokenizer) -> int | None:
    """The id of the token that stands for one that is to be guessed; None if there is none."""
    found = (tokenizer.backend.token_to_id(name) for name in MASKS)
    return next((number for number in found if number is not None), None)


def unknown_id(tokenizer: SubwordTokenizer) -> int | None:
    """The id that the tokenizer gives what it does not know; None if it knows everything."""
    model = json.loads(tokenizer.backend.to_str())["model"]
    if model.get("unk_token") is not None:
        number = tokenizer.backend.token_to_id(model["unk_token"])
    else:
        number = model.get("unk_id")
    return None if number is None else int(number)


def special_ids(tokenizer: SubwordTokenizer) -> list[int]:
    """Ids that stand for no part of a text."""
    return sorted(
        number for number, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special
    )


def train_byte_bpe(texts: Iterable[str], vocabulary_size: int, is_lossless: bool = False) -> Tokenizer:
    """Byte-level BPE over lower-cased NFKC text; no text has an unknown token.

    Bytes rather than WordPiece: the ids of WordPiece's continuing pieces depend on the order of a hash
    table and differ from process to process.
    A text is ``[CLS] text``, a pair ``[CLS] first [SEP] second``; what follows the separator has type 1.

    Source: Sennrich et al. (2016), https://arxiv.org/abs/1508.07909

    Args:
        texts: What it learns from.
        vocabulary_size: Upper bound, special tokens and 256 bytes included; few texts give fewer merges.
        is_lossless: Take texts as they are, so that ids give them back byte by byte.

    Raises:
        ValueError: If ``vocabulary_size`` leaves no room for the bytes.
    """
    special = [PAD, START, SEPARATOR]
    smallest = 256 + len(special)
    if vocabulary_size < smallest:
        raise ValueError(f"vocabulary_size must be at least {smallest}, got {vocabulary_size}")
    tokenizer = Tokenizer(models.BPE())
    if not is_lossless:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=not is_lossless)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A",
        pair=f"{START} $A {SEPARATOR} $B:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, SEPARATOR)],
    )
    return tokenizer
