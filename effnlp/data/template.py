"""Texts put into a template, as ids: ``{text} It was {answer}.``; what is too long is cut out of the text alone.

A template holds ``{answer}`` once, ``{text}`` once and, for pairs, ``{text_pair}`` once. Where the model guesses a
masked token, ``{answer}`` becomes the mask; where it guesses the next token, the template ends with it, and so does
what the model reads. Before a text there may be demonstrations, which are texts with their answers.

Legend: L tokens of one input.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from effnlp.data.encodings import Encodings
from effnlp.model.subwords import SubwordTokenizer, mask_id

SLOTS = ("text", "text_pair", "answer")
MIN_ROOM = 4
"""Fewer tokens than this of a text, beside all that is around it, tell nothing of it."""

BETWEEN = "\n\n"
"""What stands between two demonstrations."""

Ids = list[int]


@dataclass(frozen=True)
class Template:
    """A template, taken apart.

    Attributes:
        text: As it was given.
        parts: Literal texts and, as ``(slot, has_space)``, the names of slots; a space before a slot belongs to what
            is put into it, as words of most tokenizers begin with their space.
    """

    text: str
    parts: tuple[str | tuple[str, bool], ...]

    @property
    def ends_with_answer(self) -> bool:
        """Whether nothing follows the answer."""
        last = self.parts[-1]
        return isinstance(last, tuple) and last[0] == "answer"

    @property
    def answer_has_space(self) -> bool:
        """Whether a space stands before the answer."""
        return any(part == ("answer", True) for part in self.parts)


def parse(text: str, is_pair: bool) -> Template:
    """Take a template apart.

    Raises:
        ValueError: If a slot is missing, there twice, or none that there is for such texts.
    """
    wanted = [slot for slot in SLOTS if is_pair or slot != "text_pair"]
    found = re.findall(r"\{([^{}]*)\}", text)
    kind = "pairs of texts" if is_pair else "single texts"
    if sorted(found) != sorted(wanted):
        listed = ", ".join(f"{{{slot}}}" for slot in wanted)
        raise ValueError(f"a template for {kind} needs each of {listed} once, got {text!r}")
    parts: list[str | tuple[str, bool]] = []
    literal = ""
    for piece in re.split(r"(\{[^{}]*\})", text):
        if piece[:1] != "{":
            literal = piece
            continue
        has_space = literal.endswith(" ")
        if literal := literal.removesuffix(" "):
            parts.append(literal)
        parts.append((piece[1:-1], has_space))
        literal = ""
    if literal.strip():
        parts.append(literal.rstrip())
    return Template(text, tuple(parts))


class Pieces:
    """Ids of pieces of an input, such that together they are those of the whole as nearly as the tokenizer lets them.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: SubwordTokenizer) -> None:
        settings = json.loads(tokenizer.backend.to_str())
        splitter = settings.get("pre_tokenizer") or {}
        self.begins_with_space = splitter.get("type") == "ByteLevel" and bool(splitter["add_prefix_space"])
        if self.begins_with_space:  # once before the whole, and not before each piece
            splitter["add_prefix_space"] = False
        self.backend = Tokenizer.from_str(json.dumps(settings))
        self.backend.no_truncation()
        around = tokenizer.backend.encode("a")
        marks = around.special_tokens_mask
        inside = marks.index(0) if 0 in marks else len(marks)
        self.before: Ids = around.ids[:inside]
        self.after: Ids = [number for number, mark in zip(around.ids, marks, strict=True) if mark][inside:]

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each piece alone; the name of a special token is plain text."""
        self.backend.encode_special_tokens = True  # not kept where a tokenizer is stored
        return [row.ids for row in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def answer(self, word: str, template: Template) -> Ids:
        """Ids of an answer where the template has it."""
        is_first = template.parts[0] == ("answer", False)
        has_space = template.answer_has_space or (self.begins_with_space and is_first)
        (ids,) = self.ids([f" {word}" if has_space else word])
        return ids


@dataclass(frozen=True)
class Demonstration:
    """A text with its answer."""

    text: str
    text_pair: str | None
    answer: str


class PromptTokenizer:
    """Puts texts into a template, after demonstrations. Picklable.

    Args:
        tokenizer: Of the model; its longest input is kept.
        template: Taken apart by :func:`parse`.
        is_masked: Whether the answer is a masked token; else the input ends where the answer is to begin.
        reserve: Tokens to leave free at the end, for answers.
        demonstrations: Come first, in their order. Their texts get at most half of all room, in equal shares.

    Raises:
        ValueError: If there is no mask, an answer is followed by something that the model would not see, or the
            template leaves no room for a text.
    """

    def __init__(
        self,
        tokenizer: SubwordTokenizer,
        template: Template,
        is_masked: bool,
        reserve: int = 0,
        demonstrations: Sequence[Demonstration] = (),
    ) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.pieces = Pieces(tokenizer)
        self.is_pair = ("text_pair", True) in template.parts or ("text_pair", False) in template.parts
        self.mask = mask_id(tokenizer) if is_masked else None
        if is_masked and self.mask is None:
            raise ValueError(
                "the tokenizer has no mask token, which stands where a masked model is to answer"
            )
        if not is_masked and not template.ends_with_answer:
            raise ValueError(
                "a model that predicts next tokens sees what comes before an answer alone, so the template must end "
                f"with {{answer}}, got {template.text!r}"
            )
        self.literals = self._literals()
        after = self.pieces.after if is_masked else []
        self.room = tokenizer.max_length - reserve - len(self.pieces.before) - len(after)
        self.shown: Ids = []
        if demonstrations:
            self.shown = self._shown(demonstrations)
        self.room -= len(self.shown)
        around = self.room - len(self._fixed())
        if around < MIN_ROOM:
            raise ValueError(
                f"the template {template.text!r} with {len(demonstrations)} demonstrations leaves {max(0, around)} of "
                f"{tokenizer.max_length} tokens for a text, which needs {MIN_ROOM}: give fewer, or a larger "
                "model.max_length"
            )

    @property
    def max_length(self) -> int:
        """Longest input in tokens."""
        return self.tokenizer.max_length

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are."""
        return self.tokenizer.vocabulary_size

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encodings:
        """Ids of each text (with its partner, for pairs) in the template.

        Raises:
            ValueError: If pairs are given and the template has no place for them, or the other way round.
        """
        if (pairs is not None) != self.is_pair:
            raise ValueError(f"the template reads {'pairs of texts' if self.is_pair else 'single texts'}")
        slots = {"text": self._slot("text", texts)}
        if pairs is not None:
            slots["text_pair"] = self._slot("text_pair", pairs)
        after = self.pieces.after if self.mask is not None else []
        answer = [self.mask] if self.mask is not None else []
        room = self.room - len(self._fixed())
        rows: list[Ids] = []
        truncated = 0
        for each in zip(*slots.values(), strict=True):
            cut = shortened(each, room)
            truncated += sum(map(len, cut)) < sum(map(len, each))
            given = {**dict(zip(slots, cut, strict=True)), "answer": answer}
            rows.append([*self.pieces.before, *self.shown, *self._filled(given), *after])
        return Encodings.from_lists(rows, self.tokenizer.pad_id, truncated=truncated)

    def _slot(self, slot: str, texts: Sequence[str]) -> list[Ids]:
        has_space = (slot, True) in self.template.parts
        first = self.pieces.begins_with_space and self.template.parts[0] == (slot, False)
        return self.pieces.ids([f" {text}" if text and (has_space or first) else text for text in texts])

    def _literals(self) -> list[Ids]:
        texts = [part for part in self.template.parts if isinstance(part, str)]
        if texts and self.pieces.begins_with_space and isinstance(self.template.parts[0], str):
            texts[0] = f" {texts[0]}"
        return self.pieces.ids(texts)

    def _filled(self, given: dict[str, Ids]) -> Ids:
        literals = iter(self.literals)
        filled = (next(literals) if isinstance(part, str) else given[part[0]] for part in self.template.parts)
        return [number for ids in filled for number in ids]

    def _fixed(self) -> Ids:
        """All ids of a filled template that are of no text."""
        answer = [self.mask] if self.mask is not None else []
        return self._filled({"text": [], "text_pair": [], "answer": answer})

    def _shown(self, demonstrations: Sequence[Demonstration]) -> Ids:
        """Ids of all demonstrations, each cut to its share of half of the room."""
        (between,) = self.pieces.ids([BETWEEN])
        answers = [self.pieces.answer(each.answer, self.template) for each in demonstrations]
        fixed = sum(len(self._filled({"text": [], "text_pair": [], "answer": a})) for a in answers)
        fixed += len(between) * len(demonstrations)
        share = (self.room // 2 - fixed) // len(demonstrations)
        if share < MIN_ROOM:
            raise ValueError(
                f"{len(demonstrations)} demonstrations get half of {self.tokenizer.max_length} tokens, which leaves "
                f"{max(0, share)} for the text of each, and it needs {MIN_ROOM}: give fewer, or a larger "
                "model.max_length"
            )
        shown: Ids = []
        for each, answer in zip(demonstrations, answers, strict=True):
            slots = {"text": self._slot("text", [each.text])[0]}
            if each.text_pair is not None:
                slots["text_pair"] = self._slot("text_pair", [each.text_pair])[0]
            cut = dict(zip(slots, shortened(tuple(slots.values()), share), strict=True))
            shown += [*self._filled({**cut, "answer": answer}), *between]
        return shown


def shortened(parts: Sequence[Ids], room: int) -> list[Ids]:
    """Cut parts at their ends until together they are at most ``room`` long, the longest first."""
    lengths = [len(part) for part in parts]
    while (over := sum(lengths) - room) > 0:
        longest = max(lengths)
        at = [i for i, length in enumerate(lengths) if length == longest]
        below = max((length for length in lengths if length < longest), default=0)
        take = min(longest - below, -(-over // len(at)))
        for i in at:
            step = min(take, over)
            lengths[i] -= step
            over -= step
    return [part[:length] for part, length in zip(parts, lengths, strict=True)]
