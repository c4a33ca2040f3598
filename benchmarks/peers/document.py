"""The part of docs/performance.md that a run writes, and its chart beside it."""

from . import chart, report

PAGE, CHART = "performance.md", "peers_cpu.svg"
BEGIN = "<!-- Written by benchmarks/peers_cpu.py --docs -->"
END = "<!-- End of what benchmarks/peers_cpu.py --docs wrote -->"


def write(folder, found):
    page = folder / PAGE
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN} and {END}")
    image = f"![Times of libgdn and its peers]({CHART})"
    page.write_text(f"{before}{BEGIN}\n{image}\n\n{report.markdown(found)}\n{END}{after}")
    (folder / CHART).write_text(chart.svg(found, max(found["threads"])))
