"""The part of docs/performance.md that a run on a machine of some name writes, and its chart beside it."""

from . import chart, report

PAGE = "performance.md"


def write(folder, machine, found):
    begin_line = f"<!-- Written by benchmarks/peers_cpu.py --docs {machine} -->"
    end_line = f"<!-- End of what benchmarks/peers_cpu.py --docs {machine} wrote -->"
    page, picture = folder / PAGE, f"peers_cpu_{machine}.svg"
    before, begin, rest = page.read_text().partition(begin_line)
    _, end, after = rest.partition(end_line)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {begin_line} and {end_line}")
    image = f"![Times of libgdn and its peers]({picture})"
    page.write_text(f"{before}{begin_line}\n{image}\n\n{report.markdown(found)}\n{end_line}{after}")
    (folder / picture).write_text(chart.svg(found, max(found["threads"])))
