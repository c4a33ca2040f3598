"""What a run on a GPU found, as tables: text for a terminal, Markdown for docs/performance.md."""

from ..report import align

GROUPS = {
    "prefill": "Prefill, bf16, fp32 states (sequences x tokens, q/k heads / value heads)",
    "decode-fp32": "Decode, bf16 in and out, fp32 states (sequences; 16/32 heads)",
    "decode-bf16": "Decode, bf16 in and out, bf16 states (sequences; 16/32 heads)",
}

NOTES = """\
Medians in microseconds; in parentheses how many times as long as libgdn. "bytes" is the time that the fewest bytes
(inputs read once, results written once) take at the rate of the copy. Prefill starts from states and leaves states; g
and beta are given (FlashInfer gets exp(g)). libgdn normalises q and k inside; FlashInfer and FLA get normalised ones,
rounded to bfloat16, which is part of their errors; "its l2norm" is FlashInfer with its own kernel for that. Decode computes gates and norms inside, on states in a pool, in
place; FLA's has no pool and leaves new states. FlashInfer with or without its context parallelism, FLA with either
layout of states: the faster counts."""


def number(us):
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 100 else f"{us:.0f}"


class Found:
    def __init__(self, found):
        self.found = found
        self.results = {(r["work"], r["peer"]): r for r in found["results"] if "us" in r}
        self.groups = {}
        for of in found["work"]:
            self.groups.setdefault(of["group"], []).append(of)

    def peers(self, group):
        ids = [of["id"] for of in self.groups[group]]
        return [peer for peer in self.found["versions"] if any((i, peer) in self.results for i in ids)]

    def cell(self, of, peer):
        result = self.results.get((of["id"], peer))
        if not result:
            return "-"
        ratio = result.get("ratio")
        return number(result["us"]["median"]) + (f" ({ratio['median']:.2f}x)" if ratio and peer != "libgdn" else "")

    def errors(self, group, peer):
        """The largest of the group."""
        ids = [of["id"] for of in self.groups[group]]
        results = [r for r in self.found["results"] if r["work"] in ids and r["peer"] == peer]
        errors = [r["errors"] for r in results if r["errors"]]
        return " / ".join(f"{max(error[i] for error in errors):.1e}" for i in (0, 1)) if errors else "-"

    def rows(self, group):
        peers = self.peers(group)
        yield ["us", "bytes", *peers]
        for of in self.groups[group]:
            yield [of["name"], number(of["bytes"] / self.found["copy"] * 1e6), *[self.cell(of, p) for p in peers]]
        yield ["error, out / states", "", *[self.errors(group, peer) for peer in peers]]


def head(found):
    versions = {name: version for name, version in found["versions"].items() if "," not in name}
    return [
        f"{found['gpu']}, {found['multiprocessors']} multiprocessors, {found['date']}; "
        f"PyTorch {found['torch']}, Triton {found['triton']}",
        "; ".join(f"{name} {version}" for name, version in versions.items()),
        f"PyTorch's copy of 2 GiB reads and writes {found['copy'] * 1e-12:.2f} TB/s",
    ]


def tail(found):
    yield from (f"{peer} did not run: {why}" for peer, why in found["missing"].items())
    yield from (f"NOT TIMED: {r['peer']}, {r['work']}: {r['failure']}" for r in found["results"] if "failure" in r)


def details(found):
    rows = [["work", "peer", "median us", "p10", "p90", "x libgdn", "p10", "p90", "error out", "states", "which"]]
    for r in found["results"]:
        if "us" in r:
            us = [number(r["us"][key]) for key in ("median", "p10", "p90")]
            ratio = [f"{r['ratio'][key]:.3f}" if "ratio" in r else "-" for key in ("median", "p10", "p90")]
            rows.append([r["work"], r["peer"], *us, *ratio, *[f"{e:.1e}" for e in r["errors"]], r["note"]])
    return align(rows)


def text(found):
    tables = Found(found)
    lines = [*details(found), "", *head(found)]
    for group in tables.groups:
        lines += ["", GROUPS[group], *align(list(tables.rows(group)))]
    return "\n".join([*lines, "", NOTES, *tail(found)])


def markdown(found):
    tables = Found(found)
    lines = [*[line + "." for line in head(found)], "", NOTES]
    for group in tables.groups:
        lines += ["", f"{GROUPS[group]}:", ""]
        for i, row in enumerate(tables.rows(group)):
            lines.append("| " + " | ".join(row) + " |")
            if i == 0:
                lines.append("|" + "---|" * len(row))
    return "\n".join([*lines, *(f"\n{line}" for line in tail(found))])
