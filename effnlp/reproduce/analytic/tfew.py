"""The cost of few-shot learning: by gradient (T-Few) and by examples in the prompt.

Source: Liu et al. (2022), https://arxiv.org/abs/2205.05638, section 4.2

Legend: N parameters, L layers, D width, F width of the feed-forward layer.
"""

from collections.abc import Mapping
from typing import Any

FLOPS_PER_WEIGHT = 2
"""A multiplication and an addition for each weight and token (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361)."""

BACKWARD_FACTOR = 3
"""One forward pass, and a backward pass of twice its FLOPs."""

FLOAT_BYTES, TOKEN_ID_BYTES = 4, 4
KILO = 1e3


def inference_flops(
    parameters: float, query_tokens: int, shots: int = 0, shot_tokens: int = 0, encoder_decoder: bool = False
) -> float:
    """2 · N · tokens for a decoder; N · tokens for an encoder with decoder, where a token meets half of the weights.

    Args:
        parameters: N.
        query_tokens: Of the text to be classified.
        shots: Examples in the prompt.
        shot_tokens: Of each of these.
        encoder_decoder: Whether the model has both.
    """
    tokens = shots * shot_tokens + query_tokens
    return FLOPS_PER_WEIGHT * parameters * tokens / (2 if encoder_decoder else 1)


def training_flops(
    parameters: float, steps: int, batch_size: int, tokens: int, encoder_decoder: bool = False
) -> float:
    """Three forward passes for each text of each step; frozen weights save none of it in this estimate."""
    return (
        BACKWARD_FACTOR
        * steps
        * batch_size
        * inference_flops(parameters, tokens, encoder_decoder=encoder_decoder)
    )


def ia3_parameters(depth: int, attention_width: int, feedforward_width: int) -> int:
    """Numbers that (IA)³ learns in an encoder and a decoder of ``depth`` layers each (section 3.3).

    A layer has a vector for the keys, one for the values and one inside the feed-forward layer; in the decoder those
    for keys and values are there twice, since it attends to itself and to the encoder.
    """
    in_encoder = 2 * attention_width + feedforward_width
    in_decoder = 4 * attention_width + feedforward_width
    return depth * (in_encoder + in_decoder)


def prompt_bytes(shots: int, shot_tokens: int) -> int:
    """The ids of the examples that have to be kept."""
    return shots * shot_tokens * TOKEN_ID_BYTES


def table(
    in_context: Mapping[str, Mapping[str, Any]],
    fine_tuned: Mapping[str, Any],
    shots: int,
    shot_tokens: int,
    query_tokens: int,
) -> dict[str, dict[str, float]]:
    """The cost columns of Table 1.

    Args:
        in_context: Row to ``parameters`` and ``encoder_decoder``: models that read the examples in their prompt.
        fine_tuned: ``parameters``, ``steps``, ``batch_size`` and the three arguments of :func:`ia3_parameters`, of
            an encoder with decoder (T-Few).
        shots, shot_tokens, query_tokens: As in :func:`inference_flops`.
    """
    parameters = fine_tuned["parameters"]
    zero_shot = inference_flops(parameters, query_tokens, encoder_decoder=True)
    vectors = ia3_parameters(*(fine_tuned[key] for key in ("depth", "attention_width", "feedforward_width")))
    trained = training_flops(
        parameters, fine_tuned["steps"], fine_tuned["batch_size"], query_tokens, encoder_decoder=True
    )
    cells = {
        "T-Few": {"inference": zero_shot, "training": trained, "disk": vectors * FLOAT_BYTES / KILO},
        "T0": {"inference": zero_shot, "training": 0.0, "disk": 0.0},
    }
    for row, model in in_context.items():
        cells[row] = {
            "inference": inference_flops(
                query_tokens=query_tokens, shots=shots, shot_tokens=shot_tokens, **model
            ),
            "inference without the text": inference_flops(query_tokens=shots * shot_tokens, **model),
            "training": 0.0,
            "disk": prompt_bytes(shots, shot_tokens) / KILO,
        }
    return cells
