"""The parts of docs/performance.md that runs write, and the chart beside it."""

from . import chart, report

PAGE, CHART = "performance.md", "peers_cpu.svg"


def put(folder, script, text):
    """Puts text where that script of benchmarks/ had put its own before."""
    page = folder / PAGE
    begin = f"<!-- Written by benchmarks/{script} --docs -->"
    end = f"<!-- End of what benchmarks/{script} --docs wrote -->"
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{page} lacks the lines {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def write(folder, found):
    """Those of peers_cpu.py."""
    put(folder, "peers_cpu.py", f"![Times of libgdn and its peers]({CHART})\n\n{report.markdown(found)}")
    (folder / CHART).write_text(chart.svg(found, max(found["threads"])))
