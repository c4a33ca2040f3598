"""What a run found, as tables: text for a terminal, Markdown for docs/performance.md; and the goals."""

GROUPS = {
    "prefill-bf16": "Prefill, bf16 (tokens)",
    "prefill-fp32": "Prefill, fp32 (tokens)",
    "decode-fp32": "Decode, bf16 in and out, fp32 states (sequences)",
    "decode-bf16": "Decode, bf16 in and out, bf16 states (sequences)",
}
LOOP = "memory loop"

NOTES = """\
Prefill starts from states and leaves states; g and beta are given, q and k are l2-normalised inside (ONNX Runtime and
llama.cpp do not and get normalised ones). Decode computes gates and norms inside (again except those two), on states in
a pool, in place (except ONNX Runtime, llama.cpp and Hugging Face, which give new ones). One sequence: hot is the same
state again and again, rotated another of 128 each time, cold unless a cache holds them all. varlen is 1, 63, 64, 65,
500 and 1355 tokens in one call, a call for each where a peer has no packs. A memory loop only reads and writes the
states."""


class Best:
    """Of each peer and work, the best setting with at most so many threads."""

    def __init__(self, found, threads):
        self.threads = threads
        self.results = {}
        self.loops = {}  # {work: results of all settings}
        self.order = list(found["versions"])  # of the peers
        for result in found["results"]:
            if result["threads"] > threads or "failure" in result:
                continue
            key = result["work"], result["peer"]
            if result["peer"].startswith(LOOP) and "ratio" in result:
                self.loops.setdefault(result["work"], []).append(result)
            if key not in self.results or result["ms"]["median"] < self.results[key]["ms"]["median"]:
                self.results[key] = result
        self.groups = {}  # {group: [work]}
        for result in self.results.values():
            works = self.groups.setdefault(result["group"], [])
            if (result["work"], result["name"]) not in works:
                works.append((result["work"], result["name"]))

    def get(self, work, peer):
        return self.results.get((work, peer))

    def ratio(self, work, peer):
        """How many times longer than libgdn: median over rounds where both were measured in one process."""
        one, base = self.get(work, peer), self.get(work, "libgdn")
        if not one or not base:
            return None
        if setting(one) == setting(base):
            return one["ratio"]["median"]
        return one["ms"]["median"] / base["ms"]["median"]

    def peers(self, group):
        return [peer for peer in self.order if any(self.get(work, peer) for work, _ in self.groups[group])]

    def label(self, group, peer):
        """The peer's name, with its dtype where that is not the group's."""
        works = [self.get(work, peer) for work, _ in self.groups[group]]
        return f"{peer} (bf16)" if any(result and result["note"].startswith("bf16") for result in works) else peer

    def loop_ratio(self, work):
        """That of the fastest memory loop, in the process of libgdn's best time: same memory, pages and threads."""
        base = self.get(work, "libgdn")
        ratios = [r["ratio"]["median"] for r in self.loops.get(work, []) if base and setting(r) == setting(base)]
        return min(ratios, default=None)


def setting(result):
    return result["threads"], result["allocator"]


def number(ms):
    return f"{ms:.4f}" if ms < 0.1 else f"{ms:.3f}" if ms < 10 else f"{ms:.1f}"


def cell(best, work, peer):
    result = best.get(work, peer)
    if not result:
        return "-"
    ratio = best.ratio(work, peer)
    text = number(result["ms"]["median"])
    if peer != "libgdn" and ratio:
        text += f" ({ratio:.2f}x)"
    return text


def largest_errors(found, group, peer):
    errors = [r["errors"] for r in found["results"] if r["group"] == group and r["peer"] == peer and r.get("errors")]
    if not errors:
        return "-"
    return " / ".join(f"{max(error[i] for error in errors):.1e}" for i in (0, 1))


def group_rows(found, best, group):
    works = best.groups[group]
    yield ["ms", *[name for _, name in works], "error, out / state"]
    for peer in best.peers(group):
        cells = [cell(best, work, peer) for work, _ in works]
        yield [best.label(group, peer), *cells, largest_errors(found, group, peer)]
    what, unit = ("gflop_per_second", "GFLOP/s") if group.startswith("prefill") else ("gbyte_per_second", "GB/s")
    ours = [best.get(work, "libgdn") for work, _ in works]
    yield [f"libgdn, {unit}", *[f"{result[what]:.1f}" if result else "-" for result in ours], ""]


def head(found):
    versions = [f"{name} {version}" for name, version in found["versions"].items() if version and "PyTorch" not in name]
    return [
        f"{found['processor']}; kernels {', '.join(found['kernels'])}; PyTorch {found['torch']}",
        "; ".join(versions),
        f"allocators tried: {', '.join(found['allocators'])}; {found['seconds']:.0f} s in all",
    ]


def align(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join([row[0].ljust(widths[0])] + [text.rjust(width) for text, width in zip(row[1:], widths[1:])])


def details(best):
    """Every result with its spread and setting."""
    rows = [["work", "peer", "median ms", "p10", "p90", "samples", "x libgdn", "p10", "p90", "threads", "allocator"]]
    for (work, peer), r in best.results.items():
        ratio = r.get("ratio")
        spread = [f"{ratio[key]:.3f}" for key in ("median", "p10", "p90")] if ratio else ["-"] * 3
        ms = [number(r["ms"][key]) for key in ("median", "p10", "p90")]
        rows.append([work, peer, *ms, str(r["samples"]), *spread, str(r["threads"]), r["allocator"]])
    return align(rows)


def text(found):
    lines = head(found)
    for threads in found["threads"]:
        best = Best(found, threads)
        lines += ["", f"=== {threads} thread{'s' if threads > 1 else ''}"]
        for group in best.groups:
            lines += ["", GROUPS[group], *align(list(group_rows(found, best, group)))]
    lines += ["", *details(best), "", *goal_lines(found), "", NOTES]
    lines += [f"{peer} did not run: {why}" for peer, why in found["missing"].items()]
    lines += [
        f"NOT TIMED: {r['peer']}, {r['work']}: {r['failure']}" for r in found["results"] if "failure" in r
    ]
    return "\n".join(lines)


def markdown(found):
    lines = [*[line + "." for line in head(found)], "", NOTES]
    for threads in found["threads"]:
        best = Best(found, threads)
        for group in best.groups:
            lines += ["", f"{GROUPS[group]}, {threads} thread{'s' if threads > 1 else ''}:", ""]
            for i, row in enumerate(group_rows(found, best, group)):
                lines.append("| " + " | ".join(row) + " |")
                if i == 0:
                    lines.append("|" + "---|" * len(row))
    lines += ["", f"| goal ({max(found['threads'])} threads) | wanted | found |", "|---|---|---|"]
    lines += [f"| {what} | {wanted} | {got} |" for what, wanted, got in goals(found)]
    lines += [f"\n{peer} did not run: {why}" for peer, why in found["missing"].items()]
    return "\n".join(lines)


def goals(found):
    """(what, wanted, found) of what this run measured."""
    best = Best(found, max(found["threads"]))

    def against(peer, group, name, least):
        ratio = best.ratio(f"{group}-{name}", peer)
        if ratio:
            verdict = "" if ratio >= least else ", missed"
            yield f"{group} {name}: times faster than {peer}", f">= {least:.3g}", f"{ratio:.2f}{verdict}"

    for name, least in (("512", 2.0), ("2048", 2.2), ("8192", 2.3), ("varlen", 2.7)):
        yield from against("vLLM-CPU", "prefill-bf16", name, least)
    for name in ("2048", "8192"):
        yield from against("ONNX Runtime", "prefill-fp32", name, 2.4)
        yield from against("vLLM-CPU", "prefill-fp32", name, 1.0)
    for name in ("1 hot", "1 rotated"):
        yield from against("vLLM-CPU", "decode-fp32", name, 1.3)
    for name in ("64", "256"):
        yield from against("zentorch", "decode-fp32", name, 1 / 1.02)
    for group in ("decode-fp32", "decode-bf16"):
        for name in ("64", "256"):
            share = best.loop_ratio(f"{group}-{name}")
            if share:
                verdict = "" if share >= 0.9 else ", missed"
                yield f"{group} {name}: share of the best memory loop", ">= 90 %", f"{100 * share:.0f} %{verdict}"


def goal_lines(found):
    rows = [["goal", "wanted", "found"], *map(list, goals(found))]
    return align(rows) if len(rows) > 1 else []
