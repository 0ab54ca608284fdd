"""How the next token is chosen: always the likeliest, by lot, or the likeliest of several continuations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How texts are continued.

    Attributes:
        new_tokens: Tokens at most; a text ends before if the model says so.
        beams: Continuations that are followed at once; 1 follows the likeliest token alone.
        length_penalty: Of several beams: the power of its length by which the log-probability of a continuation is
            divided before it is compared; 0 compares the probabilities themselves.
        temperature: 0: always the likeliest token. Above: drawn, from logits divided by it.
        top_k: Draw from the so many likeliest tokens only; None: from all.
        top_p: Draw from the fewest likeliest tokens that together have this probability, in (0, 1].
        seed: Of what is drawn; each text has draws of its own, by its place among the texts.

    Raises:
        ValueError: If a value is outside its range, or two contradict each other.
    """

    new_tokens: int = 32
    beams: int = 1
    length_penalty: float = 0.0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.new_tokens < 1:
            raise ValueError(f"new_tokens must be at least 1, got {self.new_tokens}")
        if self.beams < 1:
            raise ValueError(f"beams must be at least 1, got {self.beams}")
        if self.length_penalty < 0:
            raise ValueError(f"length_penalty must not be negative, got {self.length_penalty}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.beams > 1 and self.temperature > 0:
            raise ValueError(
                f"beams follow the likeliest continuations and draw nothing: beams={self.beams} needs temperature=0, "
                f"got {self.temperature}"
            )
        if self.temperature == 0 and (self.top_k is not None or self.top_p < 1):
            raise ValueError("top_k and top_p say what is drawn from: give a temperature above 0 with them")
        if self.beams == 1 and self.length_penalty:
            raise ValueError("length_penalty compares continuations: give more than one of beams with it")
