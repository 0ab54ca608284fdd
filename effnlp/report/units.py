"""What a key means to a reader: its unit, which way is better, and how its values are written."""

import math
import re
from collections.abc import Container
from functools import cache

UP = "maximize"
DOWN = "minimize"

BETTER_WHEN_HIGHER = (
    "accuracy", "f1", "precision", "recall", "matthews", "mcc", "auroc", "pearson", "spearman", "agreement",
    "loyalty", "consistency", "tpr", "per_second",
)  # fmt: skip
BETTER_WHEN_LOWER = ("drop", "gap", "loss", "error")
ENDS = ("_low", "_high")
"""What the two ends of an interval have at the end of their names."""

MEANINGS = (
    (r"(val|test)/accuracy", r"share of right answers on {0}"),
    (r"(val|test)/macro_f1", r"F1 on {0}, each class counting the same"),
    (r"(val|test)/loss", r"cross-entropy on {0}, in nats"),
    (r"(val|test)/mcc", r"Matthews correlation on {0}"),
    (r"(val|test)/ece", r"calibration error on {0}: how far confidence is from the share of right answers"),
    (r"(val|test)/brier", r"Brier score on {0}: squared distance of probabilities from the truth"),
    (r"(val|test)/bits_per_byte", r"bits that a byte of text costs on {0}"),
    (r"(val|test)/perplexity", r"among how many equally likely tokens the next one was to be found on {0}"),
    (r"(val|test)/class/(.+)/(precision|recall|f1)", r"{2} of the class {1} on {0}"),
    (r"(val|test)/(pearson|spearman)", r"{1} correlation with the labels on {0}"),
    (r"robustness/checklist/(.+)/failure_rate", r"share of CheckList's tests of {0} that fail"),
    (r"robustness/perturbations/([^/]+)/([\d.e-]+)/accuracy", r"accuracy with {0} at a rate of {1}"),
    (r"robustness/perturbations/([^/]+)/(accuracy|drop)", r"{1} with {0}, mean over the rates"),
    (r"robustness/perturbations/drop", r"accuracy lost to all perturbations"),
    (r"robustness/(.+)/consistency", r"share of answers on {0} that stay as they have to"),
    (r"robustness/(.+)/accuracy", r"accuracy on {0}"),
    (r"robustness/(.+)/drop", r"accuracy lost on {0}"),
    (r"fairness/(.+)/(accuracy|tpr|fpr|ece)_gap", r"largest difference in {1} between two groups of {0}"),
    (r"fairness/(.+)/flip_rate", r"share of answers on {0} that change when only the group named does"),
    (r"fairness/(.+)/score_shift", r"how far scores on {0} move when only the group named changes"),
    (r"reference/(val|test)/label_loyalty", r"share of answers on {0} that are the reference's"),
    (r"reference/(val|test)/probability_loyalty", r"closeness of probabilities on {0} to the reference's"),
    (r"reference/(val|test)/changed", r"share of answers on {0} that are not the reference's"),
    (r"reference/(val|test)/changed/(.+)", r"share of answers not the reference's where: {1}"),
    (r"reference/(val|test)/changed_ratio/(.+)", r"how many times as often answers changed where: {1}"),
    (r"infer/(.+)/prefill_(flops|seconds_p50|energy_joules)", r"{1} until the first new token, {0}"),
    (r"infer/(.+)/decode_(flops|seconds|energy_joules)_per_token", r"{1} of each token after the first, {0}"),
    (r"infer/(.+)/tokens_per_second", r"new tokens in a second, {0}"),
    (r"infer/(.+)/cache_bytes", r"what is kept of a text while it is continued, {0}"),
    (r"infer/(.+)/cache_bytes_per_token", r"what is kept of each token, {0}"),
    (r"infer/(.+)/flops", r"operations for an example, {0}"),
    (r"infer/(.+)/latency_seconds_p(\d+)", r"time to an answer, {0}, not exceeded by {1} % of requests"),
    (r"infer/(.+)/examples_per_second", r"examples answered in a second, {0}"),
    (r"infer/(.+)/energy_joules", r"energy for an example above idle, {0}"),
    (r"infer/(.+)/peak_memory_bytes", r"most memory held, {0}"),
    (r"infer/(.+)/padding_waste", r"share of tokens that are padding, {0}"),
    (r"evaluation/(.+)/(seconds|flops|energy_joules)", r"what evaluating {0} cost"),
    (r"model/params", r"parameters"),
    (r"model/bytes", r"size of the stored model"),
)
"""Pattern of a key to what it says, with the groups of the pattern; of several that fit the first counts."""

SAID = {
    "val": "validation",
    "tpr": "true positive rate",
    "fpr": "false positive rate",
    "ece": "calibration error",
}

SI_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
SMALL_SI_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


@cache
def direction(key: str) -> str:
    """``maximize`` for quality and throughput, ``minimize`` for everything else."""
    name = "changed" if _is_of_a_place(key) else measured_name(key)
    if any(word in name for word in BETTER_WHEN_LOWER):
        return DOWN
    return UP if any(word in name for word in BETTER_WHEN_HIGHER) else DOWN


def _is_of_a_place(key: str) -> bool:
    """Whether the last part of ``key`` names a class, which may be called anything, and not what was measured."""
    return "/changed/" in key or "/changed_ratio/" in key


def measured_name(key: str) -> str:
    """The last part of a key without a remark: ``a/b/energy_joules [measured]`` gives ``energy_joules``."""
    return key.split(" [")[0].rsplit("/", 1)[-1]


def meaning(key: str) -> str:
    """What ``key`` measures, in words; empty for a key that says it itself."""
    base, _, remark = key.partition(" [")
    for pattern, text in MEANINGS:
        if found := re.fullmatch(pattern, base):
            said = text.format(*(SAID.get(part, part.replace("_", " ")) for part in found.groups()))
            return f"{said} ({remark.rstrip(']')})" if remark else said
    return ""


def interval_of(key: str, known: Container[str]) -> tuple[str, bool] | None:
    """Key whose interval ``key`` is one end of, and whether it is the upper end; None if it stands for itself."""
    for end in ENDS:
        if key.endswith(end) and (base := key.removesuffix(end)) in known:
            return base, end == "_high"
    return None


def unit(key: str) -> str:
    """Unit of the values of ``key`` before any prefix; empty for fractions and plain counts."""
    if _is_of_a_place(key):
        return ""
    name = measured_name(key)
    for end in ENDS:
        name = name.removesuffix(end)
    if name.endswith("per_second"):
        return "/s"
    if "seconds" in name:
        return "s"
    for word, symbol in (("flops", "FLOP"), ("bytes", "B"), ("joules", "J"), ("grams", "g")):
        if name.endswith(word):
            return symbol
    return ""


def scaled(key: str, value: float) -> tuple[float, str]:
    """The factor to divide values of ``key`` by, and the unit that they then have, to read ``value`` well."""
    symbol, size = unit(key), abs(value)
    if symbol == "s":
        for factor, name, enough in ((3600.0, "h", 7200.0), (60.0, "min", 120.0)):
            if size >= enough:
                return factor, name
    if symbol in ("s", "J", "g") and 0 < size < 1:
        for factor, prefix in SMALL_SI_PREFIXES:
            if size >= factor * 0.9995:
                return factor, prefix + symbol
        factor, prefix = SMALL_SI_PREFIXES[-1]
        return factor, prefix + symbol
    if symbol == "s":
        return 1.0, symbol
    if not symbol and size < 1000:
        return 1.0, ""
    for factor, prefix in SI_PREFIXES:
        if size >= factor * 0.9995:
            return factor, prefix + symbol
    return 1.0, symbol


def human(key: str, value: float, half_width: float | None = None) -> str:
    """``value`` as a person reads it: ``1.20 MFLOP``, ``3.40 MB``, ``12.0 ms``, ``0.8512``.

    With a ``half_width`` that does not round to zero both share the unit: ``12.0 ± 0.4 ms``.
    """
    factor, symbol = scaled(key, value)
    text = digits(value / factor, plain=not symbol)
    if half_width:
        interval = digits(half_width / factor, plain=not symbol, places=_places(text))
        if float(interval):  # replicates that agree, as in FLOPs, need no interval
            text += f" ± {interval}"
    if not symbol:
        return text
    return f"{text}{'' if symbol == '/s' else ' '}{symbol}"


def digits(value: float, plain: bool, places: int | None = None) -> str:
    """Three significant digits; four decimals for a plain fraction; whole numbers as they are."""
    if places is not None:
        return f"{value:.{places}f}"
    if plain and value == math.floor(value) and abs(value) >= 2:
        return f"{value:.0f}"
    if plain and abs(value) < 10:
        return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}".replace("e-0", "e-")
    size = abs(value)
    return f"{value:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"


def _places(text: str) -> int | None:
    return None if "e" in text else len(text.partition(".")[2])
