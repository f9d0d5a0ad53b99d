"""Bar charts as SVG: a dozen lines each, and no library that has to be installed for them."""

from collections.abc import Mapping
from xml.sax.saxutils import escape

WIDTH = 640
LABEL = 150
ROW = 34
TOP = 46
VALUE = 90
FONT = 'font-family="system-ui, sans-serif" font-size="14"'
COLOURS = {"ours": "#2563eb"}
OTHER = "#94a3b8"
NAMES = {
    "ours": "Morpheus",
    "floor": "floor (aiohttp)",
    "floor_httpx2": "floor (httpx2)",
    "litellm": "LiteLLM",
    "portkey": "Portkey",
}


def bars(title: str, values: Mapping[str, float], *, unit: str) -> str:
    """Return a chart with one horizontal bar for each value, longest first. Values are not negative."""
    if not values:
        raise ValueError("a chart of nothing")
    longest = max(*values.values(), 1e-12)
    height = TOP + ROW * len(values) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="26" font-size="16" font-weight="600" fill="#0f172a">{escape(title)}</text>',
    ]
    ordered = sorted(values.items(), key=lambda item: item[1], reverse=True)
    for number, (name, value) in enumerate(ordered):
        y = TOP + number * ROW
        length = max(1.0, (WIDTH - LABEL - VALUE - 10) * value / longest)
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        lines += [
            f'<text x="{LABEL - 10}" y="{y + 18}" text-anchor="end" fill="#334155">{escape(NAMES.get(name, name))}</text>',
            f'<rect x="{LABEL}" y="{y + 4}" width="{length:.1f}" height="20" rx="2" fill="{COLOURS.get(name, OTHER)}"/>',
            f'<text x="{LABEL + length + 8:.1f}" y="{y + 18}" fill="#0f172a">{shown} {escape(unit)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
