"""When a method that rounds may act, and how many texts one that looks at texts may want."""

MOMENTS = ("prepare", "finish")
"""On the frozen base of a PEFT method, or on the trained model."""


def check_moment(moment: str) -> str:
    """``moment``, if it is one of :data:`MOMENTS`."""
    if moment not in MOMENTS:
        raise ValueError(f"moment must be one of {', '.join(MOMENTS)}, got {moment!r}")
    return moment


def check_texts(calibration_texts: int) -> int:
    """``calibration_texts``, if there is one at least."""
    if calibration_texts < 1:
        raise ValueError(f"calibration_texts must be at least 1, got {calibration_texts}")
    return calibration_texts
