"""How tasks are put in words: templates, and for each label the words that mean it.

Source: templates after Gao et al. (2021), https://arxiv.org/abs/2012.15723 (SST-2, TREC, SNLI) and Schick and Schütze
(2021), https://arxiv.org/abs/2001.07676 (AG News); those for next tokens end with the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effnlp.menu import suggest
from effnlp.task.task import Task


@dataclass(frozen=True)
class Phrasing:
    """A task in words.

    Attributes:
        masked: Templates for a model that guesses a masked token, the best known first.
        causal: Templates for a model that guesses the next token; they end with the answer.
        words: Label to what means it.
        about: What a hypothesis says a text is about, label to phrase.
        hypothesis: Says so, with the place ``{label}``.
    """

    masked: tuple[str, ...]
    causal: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]
    about: Mapping[str, str]
    hypothesis: str = "This text is about {label}."


PHRASINGS: dict[str, Phrasing] = {
    "sst2": Phrasing(
        masked=("{text} It was {answer}.", "{text} The film is {answer}.", "A {answer} one: {text}"),
        causal=("Review: {text}\nSentiment: {answer}", "{text} It was {answer}"),
        words={"negative": ("bad",), "positive": ("good",)},
        about={"negative": "bad", "positive": "good"},
        hypothesis="It was {label}.",
    ),
    "trec": Phrasing(
        masked=("{text} It asks for a {answer}.", "A question of {answer}: {text}"),
        causal=("Question: {text}\nAnswer type: {answer}", "{text} It asks for a {answer}"),
        words={
            "ABBR": ("short",),
            "DESC": ("description",),
            "ENTY": ("object",),
            "HUM": ("name",),
            "LOC": ("location",),
            "NUM": ("number",),
        },
        about={
            "ABBR": "an abbreviation",
            "DESC": "a description",
            "ENTY": "a thing",
            "HUM": "a person",
            "LOC": "a location",
            "NUM": "a number",
        },
        hypothesis="This question asks for {label}.",
    ),
    "ag_news": Phrasing(
        masked=("{answer} news: {text}", "{text} It is about {answer}."),
        causal=("Article: {text}\nTopic: {answer}", "{text} It is about {answer}"),
        words={
            "World": ("world",),
            "Sports": ("sports",),
            "Business": ("business",),
            "Sci/Tech": ("technology",),
        },
        about={
            "World": "world politics",
            "Sports": "sports",
            "Business": "business",
            "Sci/Tech": "science and technology",
        },
    ),
    "docstrings": Phrasing(
        masked=("{text} It is about a {answer}.", "The {answer} module: {text}"),
        causal=("{text} It is about a {answer}", "Documentation: {text}\nTopic: {answer}"),
        words={
            "text and data formats": ("format",),
            "networking": ("server",),
            "concurrency and processes": ("process",),
            "graphical interfaces": ("window",),
            "testing and debugging": ("test",),
            "language and imports": ("module",),
            "files and system": ("file",),
            "numbers and dates": ("number",),
        },
        about={
            "text and data formats": "formats of text and data",
            "networking": "networks",
            "concurrency and processes": "processes and threads",
            "graphical interfaces": "windows and graphics",
            "testing and debugging": "tests",
            "language and imports": "modules and the language",
            "files and system": "files and the system",
            "numbers and dates": "numbers and dates",
        },
    ),
    "snli": Phrasing(
        masked=("{text} {answer}, {text_pair}", "{text_pair} {answer}, {text}"),
        causal=("{text} Question: {text_pair} True, False or Neither?\nAnswer: {answer}",),
        words={"entailment": ("yes",), "neutral": ("maybe",), "contradiction": ("no",)},
        about={},
    ),
}
"""Task to how it is put in words."""


def phrasing_of(task: Task, key: str, names: Sequence[str] = tuple(PHRASINGS)) -> Phrasing:
    """What is known of a task.

    Args:
        key: What to give where nothing is known, ``finetuning.templates``.
        names: Tasks of which it is known.

    Raises:
        ValueError: If nothing is known of it.
    """
    if task.name not in names:
        raise ValueError(f"{key} must be given for task {task.name}{suggest(task.name, list(names))}")
    return PHRASINGS[task.name]
