"""The parts of docs/performance.md that runs write, and the charts beside it."""

from . import chart, report

PAGE = "performance.md"


def put(folder, command, text):
    """Puts text where that command, of a script of benchmarks/, had put its own before."""
    page = folder / PAGE
    begin = f"<!-- Written by benchmarks/{command} -->"
    end = f"<!-- End of what benchmarks/{command} wrote -->"
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{page} lacks the lines {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def write(folder, machine, found):
    """That of peers_cpu.py on a machine of this name."""
    picture = f"peers_cpu_{machine}.svg"
    text = f"![Times of libgdn and its peers]({picture})\n\n{report.markdown(found)}"
    put(folder, f"peers_cpu.py --docs {machine}", text)
    (folder / picture).write_text(chart.svg(found, max(found["threads"])))
