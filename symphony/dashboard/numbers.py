"""Numbers in few characters."""

from __future__ import annotations

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = "_.-:=+*#"


def short(value: float) -> str:
    """``0``, ``7.3``, ``512``, ``12.3k``, ``4.5M``: at most 5 characters."""
    for unit in ("", "k", "M", "G", "T"):
        if value < 999.5 or unit == "T":
            if not unit and float(value).is_integer():
                return f"{value:.0f}"
            return f"{value:.1f}{unit}" if value < 99.95 else f"{value:.0f}{unit}"
        value /= 1000
    return "-"


def size(value: float) -> str:
    """Bytes: ``0 B``, ``12.5 kB``, ``3.1 GB``."""
    text = short(value)
    unit = text[-1] if text[-1:].isalpha() else ""
    return f"{text.removesuffix(unit)} {unit}B"


def milliseconds(seconds: float | None) -> str:
    """A duration, as a dashboard has it."""
    if seconds is None:
        return "-"
    value = seconds * 1000
    return f"{value:.1f} ms" if value < 99.95 else f"{value:.0f} ms" if value < 9999 else f"{seconds:.0f} s"


def sparkline(values: Sequence[float], width: int, *, plain: bool = False) -> str:
    """The last `width` values as bars, the highest as a full one; `plain` in ASCII."""
    bars = _PLAIN_BARS if plain else _BARS
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0.0)
    if top <= 0:
        return (bars[0] * len(shown)).rjust(max(width, 0))
    return "".join(
        bars[min(len(bars) - 1, int(value / top * (len(bars) - 1) + 0.5))] for value in shown
    ).rjust(width)
