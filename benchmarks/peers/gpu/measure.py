"""Times on a GPU: replays of graphs, peers in turns."""

import statistics

import torch

LEAST = 2e-3  # seconds that a graph lasts; where one call for each copy of the inputs is shorter, they are repeated
MOST_PASSES = 16
TRIAL = 5  # replays that choose among a peer's calls


def milliseconds(run):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


class Graph:
    """A call on every copy of the inputs, captured. The call, which holds the tensors that it works on, lives as long.
    What the calls make stays alive together: memory that is free again after a call would be the next one's, and in a
    cache, which is not so where results are kept."""

    def __init__(self, call, copies, passes=1):
        torch.cuda.synchronize()
        self.call, self.calls = call, copies * passes
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.made = [call.run(turn % copies) for turn in range(self.calls)]

    def seconds(self):
        """Of a call."""
        return milliseconds(self.graph.replay) * 1e-3 / self.calls


def graph_of(call, copies):
    graph = Graph(call, copies)
    graph.seconds()
    total = graph.seconds() * graph.calls
    passes = min(MOST_PASSES, max(1, round(LEAST / total)))
    return graph if passes == 1 else Graph(call, copies, passes)


def fastest(calls, copies):
    """The call of least time, and its graph."""
    if len(calls) == 1:
        return calls[0], graph_of(calls[0], copies)
    best = None
    for call in calls:
        graph = graph_of(call, copies)
        seconds = statistics.median(graph.seconds() for _ in range(TRIAL))
        if best is None or seconds < best[0]:
            best = seconds, call, graph
        del graph
    return best[1:]


def take_turns(graphs, rounds):
    """{name: seconds a call of each round} of {name: Graph}."""
    found = {name: [] for name in graphs}
    order = list(graphs)
    for _ in range(rounds):
        for name in order:
            graphs[name].seconds()  # the caches and the clocks are its own
            found[name].append(graphs[name].seconds())
        order = order[1:] + order[:1]
    return found


def warm_up(device):
    """Work until the clocks have risen."""
    x = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    spent = 0.0
    while spent < 500:
        spent += milliseconds(lambda: [x @ x for _ in range(10)])


def copy_rate(device, bytes=2 << 30):
    """Bytes read and written in a second by a large copy of PyTorch's."""
    source = torch.randint(0, 256, (bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [milliseconds(lambda: target.copy_(source)) for _ in range(17)][2:]
    return 2 * bytes / (statistics.median(times) * 1e-3)
