"""
Charts of a result, as SVG: python -m benchmarks.charts benchmarks/results/reference.json docs
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from statistics import median

from benchmarks.__main__ import BENCHMARKS
from benchmarks.peers import PEERS

CHARTS = {
    "fanout-single": ("fanout", "delivery", "CPU per delivery, 5,000 clients, 50 events a second"),
    "fanout-batch": ("fanout", "batch", "CPU per delivery, 10 events in a turn"),
    "connect": ("clients", "connect", "CPU per connect, with first bytes"),
    "memory": ("clients", "memory", "Memory per idle client, of 10,000"),
}
"""By the name of the file: benchmark, measure, title."""

WIDTH, LEFT, RIGHT, ROW, TOP = 720, 190, 110, 34, 56


def main(result: Path, folder: Path) -> None:
    """Write all charts for which the result has figures."""
    runs = json.loads(result.read_text())["runs"]
    for name, (benchmark, measure, title) in CHARTS.items():
        rows = []
        for peer, figures in runs.get(benchmark, {}).items():
            values = [figure[measure] for figure in figures if figure.get(measure) is not None]
            if values:
                rows.append((PEERS[peer]().title, min(values), median(values), max(values)))
        if rows:
            unit = BENCHMARKS[benchmark].measures[measure].unit
            path = folder / f"benchmark-{name}.svg"
            path.write_text(chart(title, unit, sorted(rows, key=lambda row: row[2])))
            print(path)


def chart(title: str, unit: str, rows: list[tuple[str, float, float, float]]) -> str:
    """Bars from zero: each row's name, least, median and most. Ours is the dark one."""
    height = TOP + ROW * len(rows) + 16
    scale = (WIDTH - LEFT - RIGHT) / max(most for *_, most in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="14" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="30" font-size="16" font-weight="600" fill="#14202b">{escape(title)}'
        f'<tspan fill="#5b6975" font-weight="400"> ({escape(unit)}; less is better)</tspan></text>',
    ]
    for number, (name, least, middle, most) in enumerate(rows):
        y = TOP + ROW * number
        ours = name == "pushd"
        weight, colour = ("600", "#0b6e63") if ours else ("400", "#b9c6cf")
        centre, end = y + 12, LEFT + middle * scale
        parts += [
            f'<text x="{LEFT - 12}" y="{y + 17}" text-anchor="end" fill="#14202b" '
            f'font-weight="{weight}">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{max(1.0, middle * scale):.1f}" height="24" rx="2" '
            f'fill="{colour}"/>',
            f'<path d="M{LEFT + least * scale:.1f} {centre}H{LEFT + most * scale:.1f}" '
            f'stroke="#14202b" stroke-width="2"/>',
            f'<text x="{max(end, LEFT + most * scale) + 8:.1f}" y="{y + 17}" fill="#14202b">'
            f"{middle:{',.0f' if middle >= 100 else '.3g'}}</text>",
        ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
