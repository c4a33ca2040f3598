"""The chart of a run: for each piece of work a bar a peer, as long as the logarithm of its time."""

import html
import math

from .report import GROUPS, Best, number

COLUMN = 570  # width of one of the two columns: prefill, decode
NAME, BARS = 165, 250  # of it: names, bars; the rest is for figures
ROW, GAP = 15, 26
OURS, LOOPS, OTHERS = "#1b6ca8", "#c9c9c9", "#e0a458"


def text(x, y, content, size=11, anchor="start", weight="normal", fill="#222"):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{fill}">{html.escape(content)}</text>'
    )


def colour(peer):
    return OURS if peer == "libgdn" else LOOPS if peer.startswith("memory") else OTHERS


def block(best, group, work, name, x, y):
    """The bars of a piece of work; returns (elements, the y below)."""
    rows = sorted((best.get(work, peer)["ms"]["median"], peer) for peer in best.order if best.get(work, peer))
    # Bars start at half of the shortest time, so that it has a bar too, and span what is there, a decade or more.
    least = math.log10(rows[0][0] / 2)
    span = max(1.0, math.log10(rows[-1][0]) - least)
    found = [text(x, y, name, weight="bold")]
    y += 6
    for ms, peer in rows:
        width = BARS * (math.log10(ms) - least) / span
        ratio = best.ratio(work, peer)
        figures = number(ms) + (f" ({ratio:.2f}x)" if ratio and peer != "libgdn" else "")
        found.append(text(x + NAME - 6, y + ROW - 4, best.label(group, peer), anchor="end"))
        found.append(
            f'<rect x="{x + NAME}" y="{y + 2}" width="{width:.1f}" height="{ROW - 4}" fill="{colour(peer)}"/>'
        )
        found.append(text(x + NAME + width + 5, y + ROW - 4, figures))
        y += ROW
    return found, y + GAP


def title_of(group, name):
    if not name.isdigit():
        return name.replace("1 ", "1 sequence, ")
    return f"{name} {'tokens' if group.startswith('prefill') else 'sequences'}"


def column(best, groups, x, y):
    found = []
    for group in groups:
        if group not in best.groups:
            continue
        found.append(text(x, y, GROUPS[group].rsplit(" (", 1)[0], size=13, weight="bold"))
        y += 22
        for work, name in best.groups[group]:
            elements, y = block(best, group, work, title_of(group, name), x, y)
            found += elements
        y += 8
    return found, y


def svg(found, threads):
    best = Best(found, threads)
    title = f"libgdn and its peers: {found['processor']}, {threads} thread{'s' if threads > 1 else ''}"
    elements = [text(16, 26, title, size=15, weight="bold")]
    elements.append(text(16, 44, "Median ms, logarithmic bars; x: times as long as libgdn", fill="#555"))
    bottom = 0
    for i, kind in enumerate(("prefill", "decode")):
        groups = [group for group in GROUPS if group.startswith(kind)]
        drawn, y = column(best, groups, 16 + i * COLUMN, 76)
        elements += drawn
        bottom = max(bottom, y)
    width = 2 * COLUMN + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" width="{width}" height="{bottom}" '
        'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join([*elements, "</svg>", ""])
    )
