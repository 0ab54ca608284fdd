"""A figure drawn twice: for print by matplotlib, for the page by plotly."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnlp.reproduce.figure import Panel, Series, described, label_sides, ticks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#a6761d")
"""Okabe and Ito's, told apart with every common kind of colour vision; as on the other pages."""

MARKERS = ("o", "s", "D", "^", "P", "*")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
"""The same shapes for matplotlib and for plotly: after the colours, shapes tell on."""

INCHES_WIDE, INCHES_HIGH = 5.5, 3.4
DOTS_PER_INCH = 160
LONG = 8
"""Names of bars longer than this are set at a slant."""


def save(panels: Sequence[Panel], path: Path) -> None:
    """Draw the panels one below the other into a PDF or PNG file, which is the same whenever it is drawn.

    Raises:
        ValueError: If matplotlib cannot write files of that kind.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure  # no window and no state of pyplot

    figure = Figure(figsize=(INCHES_WIDE, INCHES_HIGH * len(panels)), layout="constrained")
    places = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for panel, axes in zip(panels, places, strict=True):
        _draw(panel, axes)
    is_pdf = path.suffix == ".pdf"
    figure.savefig(
        path, dpi=DOTS_PER_INCH, metadata={"CreationDate": None} if is_pdf else {"Software": "effnlp"}
    )


def _draw(panel: Panel, axes: "Axes") -> None:
    offsets = _offsets(panel)
    for series, offset in zip(panel.series, offsets, strict=True):
        colour, marker = COLOURS[series.colour % len(COLOURS)], MARKERS[series.colour % len(MARKERS)]
        x = [
            panel.categories.index(str(place)) + offset if panel.categories else float(place)
            for place in series.x
        ]
        below, above = reaches(series)
        is_bar = panel.kind == "bars" and not series.is_paper
        if is_bar:
            axes.bar(
                x, list(series.y), _bar_width(panel), color=colour, alpha=0.75, label=series.name, zorder=2
            )
        axes.errorbar(
            x,
            list(series.y),
            [below, above] if any(below) or any(above) else None,
            fmt="none" if is_bar else marker,
            linestyle=("--" if series.is_paper else "-") if panel.kind == "lines" else "none",
            color="black" if is_bar else colour,
            markerfacecolor="white" if series.is_paper else colour,
            markersize=5.5,
            capsize=2.5,
            linewidth=1.1,
            label=None if is_bar else series.name,
            zorder=3,
        )
    if panel.labelled:
        _name_points(panel, axes)
    _mark_axes(panel, axes)


def _name_points(panel: Panel, axes: "Axes") -> None:
    for series, sides in zip(panel.series, label_sides(panel), strict=True):
        for index, side in enumerate(sides):
            if side is None:
                continue
            is_left, is_below = side[0] == "left", side[1] == "bottom"
            axes.annotate(
                series.names[index],
                (float(series.x[index]), series.y[index]),
                xytext=(-5 if is_left else 5, -5 if is_below else 4),
                textcoords="offset points",
                ha="right" if is_left else "left",
                va="top" if is_below else "bottom",
                fontsize=7,
            )


def _mark_axes(panel: Panel, axes: "Axes") -> None:
    if panel.labelled:
        axes.margins(y=0.1)  # room for the names
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    elif panel.kind == "bars":
        low, high = focus(panel)
        axes.set_ylim(low, high)
    if panel.categories:
        is_long = max(map(len, panel.categories)) > LONG
        axes.set_xticks(
            range(len(panel.categories)),
            panel.categories,
            rotation=30 if is_long else 0,
            ha="right" if is_long else "center",
        )
    elif ticks := ticks_of(panel):
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set_xlabel(panel.x_title)
    axes.set_ylabel(panel.y_title)
    axes.grid(axis="y" if panel.kind == "bars" else "both", linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    if has_legend(panel):
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))


def has_legend(panel: Panel) -> bool:
    """Whether there is more than one kind of point to be told apart."""
    return len(panel.series) > 1


def reaches(series: Series) -> tuple[list[float], list[float]]:
    """How far the intervals reach below and above the points; 0 where there is none."""
    below = [0.0 if low is None else max(0.0, y - low) for y, low in zip(series.y, series.low, strict=True)]
    above = [
        0.0 if high is None else max(0.0, high - y) for y, high in zip(series.y, series.high, strict=True)
    ]
    return below, above


def focus(panel: Panel) -> tuple[float, float]:
    """The part of the axis of bars that is shown: from 0, since the length of a bar is what is read."""
    ends = [
        end
        for series in panel.series
        for y, low, high in zip(series.y, series.low, series.high, strict=True)
        for end in (y, y if low is None else low, y if high is None else high)
    ]
    low, high = min(0.0, *ends), max(0.0, *ends)
    reach = (high - low) or 1.0
    return (low - 0.05 * reach if low < 0 else 0.0), (high + 0.05 * reach if high > 0 else 0.0)


def _bar_width(panel: Panel) -> float:
    return 0.8 / max(1, len({series.colour for series in panel.series}))


def _offsets(panel: Panel) -> list[float]:
    """How far from the middle of a category each series stands, so that bars of several columns do not hide."""
    colours = sorted({series.colour for series in panel.series})
    return [
        (colours.index(series.colour) - (len(colours) - 1) / 2) * _bar_width(panel)
        if panel.categories
        else 0.0
        for series in panel.series
    ]


def plotly(panel: Panel) -> dict[str, Any]:
    """Traces and axes for the page's script, which adds what depends on the theme."""
    traces = [_trace(panel, *each) for each in zip(panel.series, _offsets(panel), strict=True)]
    if panel.labelled:
        named = map(_names, panel.series, label_sides(panel))
        traces = [trace | names for trace, names in zip(traces, named, strict=True)]
    return {
        "traces": traces,
        "legend": has_legend(panel),
        "xaxis": _x_axis(panel),
        "yaxis": {
            "title": {"text": escaped(panel.y_title)},
            "type": "log" if panel.log_y else "linear",
            **({"range": list(focus(panel))} if panel.kind == "bars" and not panel.log_y else {}),
        },
    }


def _trace(panel: Panel, series: Series, offset: float) -> dict[str, Any]:
    colour, symbol = COLOURS[series.colour % len(COLOURS)], SYMBOLS[series.colour % len(SYMBOLS)]
    below, above = reaches(series)
    x = [panel.categories.index(str(place)) + offset if panel.categories else place for place in series.x]
    trace: dict[str, Any] = {
        "name": escaped(series.name),
        "x": x,
        "y": list(series.y),
        "hoverinfo": "text",
        "hovertext": [escaped(described(series, index)) for index in range(len(series.x))],
    }
    if any(below) or any(above):
        trace["error_y"] = {
            "type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2, "width": 4,
        }  # fmt: skip
    if panel.kind == "bars" and not series.is_paper:
        return trace | {
            "type": "bar",
            "width": _bar_width(panel),
            "marker": {"color": colour, "opacity": 0.75},
        }
    line = {"color": colour, "dash": "dash" if series.is_paper else "solid", "width": 1.6}
    mode = ("lines+" if panel.kind == "lines" else "") + "markers" + ("+text" if panel.labelled else "")
    symbol += "-open" if series.is_paper else ""
    trace |= {
        "type": "scatter", "mode": mode, "line": line,
        "marker": {"color": colour, "size": 9, "symbol": symbol, "line": {"width": 1.5, "color": colour}},
    }  # fmt: skip
    return trace


def _names(series: Series, sides: Sequence[tuple[str, str] | None]) -> dict[str, Any]:
    return {
        "text": [escaped(name) if side else "" for name, side in zip(series.names, sides, strict=True)],
        "textposition": [f"{side[1]} {side[0]}" if side else "top right" for side in sides],
        "textfont": {"size": 10},
        "cliponaxis": False,
    }


def _x_axis(panel: Panel) -> dict[str, Any]:
    axis: dict[str, Any] = {
        "title": {"text": escaped(panel.x_title)},
        "type": "log" if panel.log_x else "linear",
    }
    if panel.categories:
        names = [escaped(name) for name in panel.categories]
        axis |= {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.6, len(names) - 0.4]}
    elif ticks := ticks_of(panel):
        axis |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return axis


def escaped(text: str) -> str:
    """``text`` for plotly, which reads some tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
