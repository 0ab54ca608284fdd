"""Which layer of a teacher teaches which layer of its student.

Source: Jiao et al. (2020), https://arxiv.org/abs/1909.10351, section 4.4.2
"""

MAPS = ("uniform", "top", "bottom")


def check_layer_map(kind: str) -> None:
    """Check the name of a map.

    Raises:
        ValueError: If there is no such map.
    """
    if kind not in MAPS:
        raise ValueError(f"layer_map must be one of {', '.join(MAPS)}, got {kind!r}")


def layer_map(kind: str, student_depth: int, teacher_depth: int) -> list[int]:
    """g(m) for m = 0 … M, from layers of the student to layers of the teacher; 0 stands for the embeddings.

    Args:
        kind: ``uniform``, every N / M-th layer (the nearest whole one, up from a half), ``top``, the last M layers, or
            ``bottom``, the first M.
        student_depth: M.
        teacher_depth: N.

    Raises:
        ValueError: If there is no such map, or the student has more layers than the teacher.
    """
    check_layer_map(kind)
    if student_depth > teacher_depth:
        raise ValueError(
            f"each layer of the student needs one of the teacher: the student has {student_depth}, "
            f"the teacher {teacher_depth}"
        )
    layers = range(1, student_depth + 1)
    if kind == "bottom":
        return [0, *layers]
    if kind == "top":
        return [0, *(m + teacher_depth - student_depth for m in layers)]
    return [0, *((2 * m * teacher_depth + student_depth) // (2 * student_depth) for m in layers)]
