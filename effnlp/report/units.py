"""What a key means to a reader: its unit, which way is better, and how its values are written."""

import math

UP = "maximize"
DOWN = "minimize"

BETTER_WHEN_HIGHER = ("accuracy", "f1", "precision", "recall", "matthews", "auroc", "agreement", "per_second")
BETTER_WHEN_LOWER = ("drop", "gap", "loss", "error")

SI_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
SMALL_SI_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def direction(key: str) -> str:
    """``maximize`` for quality and throughput, ``minimize`` for everything else."""
    name = measured_name(key)
    if any(word in name for word in BETTER_WHEN_LOWER):
        return DOWN
    return UP if any(word in name for word in BETTER_WHEN_HIGHER) else DOWN


def measured_name(key: str) -> str:
    """The last part of a key without a remark: ``a/b/energy_joules [measured]`` gives ``energy_joules``."""
    return key.split(" [")[0].rsplit("/", 1)[-1]


def unit(key: str) -> str:
    """Unit of the values of ``key`` before any prefix; empty for fractions and plain counts."""
    name = measured_name(key)
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
