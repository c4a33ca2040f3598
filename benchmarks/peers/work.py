"""What is timed: the pieces of work, their inputs, and the float64 reference that every peer is checked against."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

H, HV, K, V = 16, 32, 128, 128
SCALE = K**-0.5
EPS = 1e-6
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Work:
    group: str  # prefill-bf16, prefill-fp32 (dtype of q, k, v); decode-fp32, decode-bf16 (dtype of the states)
    name: str  # within the group
    lengths: tuple[int, ...]  # of the sequences; all 1 in decode
    slots: int = 0  # decode: slots of the pool; as many as sequences, unless the one sequence rotates over them

    @property
    def id(self):
        return f"{self.group}-{self.name}"

    @property
    def decode(self):
        return self.group.startswith("decode")

    @property
    def dtype(self):
        """Of q, k, v: decode is timed as serving does it, in bfloat16."""
        return torch.bfloat16 if self.decode else DTYPES[self.group.split("-")[1]]

    @property
    def state_dtype(self):
        return DTYPES[self.group.split("-")[1]] if self.decode else torch.float32

    @property
    def sequences(self):
        return len(self.lengths)

    @property
    def rotates(self):
        return self.slots > self.sequences

    @property
    def tokens(self):
        return sum(self.lengths)

    @property
    def ranges(self):
        ends = torch.tensor(self.lengths).cumsum(0).tolist()
        return [(end - length, end) for end, length in zip(ends, self.lengths)]

    @property
    def flops(self):
        """Those of chunks of 32 with full squares, whatever a kernel does, so that numbers compare."""
        return self.tokens * HV * (6 * K * V + 64 * (2 * K * H / HV + 2 * V))

    @property
    def state_bytes(self):
        """Read and written."""
        return 2 * self.sequences * HV * K * V * self.state_dtype.itemsize


def all_work(quick):
    lengths = {"512": (512,), "2048": (2048,), "8192": (8192,), "varlen": (1, 63, 64, 65, 500, 1355)}
    rotation, batches = 128, (64, 256)
    if quick:
        lengths = {"128": (128,), "300": (300,), "varlen": (1, 63, 64, 65)}
        rotation, batches = 8, (16,)
    found = [Work(f"prefill-{dtype}", name, of) for dtype in ("bf16", "fp32") for name, of in lengths.items()]
    for dtype in ("fp32", "bf16"):
        group = f"decode-{dtype}"
        found += [Work(group, "1 hot", (1,), 1), Work(group, "1 rotated", (1,), rotation)]
        found += [Work(group, str(n), (1,) * n, n) for n in batches]
    return found


class Inputs:
    """The tensors of a piece of work, equal for all peers. Values are a layer's usual ones; what a peer may take in
    another dtype (beta, a, b, dt_bias) is representable in bfloat16, so that all see the same numbers."""

    STATES = 8  # different ones; slots of a pool repeat them

    def __init__(self, work):
        random = torch.Generator().manual_seed(1)

        def normal(*shape):
            return torch.randn(*shape, generator=random)

        def short(x):
            return x.bfloat16().float()

        T = work.tokens
        self.work = work
        self.q, self.k = (normal(1, T, H, K).to(work.dtype) for _ in range(2))
        self.v = normal(1, T, HV, V).to(work.dtype)
        self.cu_seqlens = torch.tensor([0] + [end for _, end in work.ranges], dtype=torch.int32)
        self.states = (0.1 * normal(self.STATES, HV, V, K)).to(work.state_dtype)
        if work.decode:
            # As the layers are initialised: A uniform, the step's logarithm uniform.
            self.A_log = torch.log(1 + 15 * torch.rand(HV, generator=random))
            step = torch.exp(torch.empty(HV).uniform_(-6.9, -2.3, generator=random))
            self.dt_bias = short(torch.log(torch.expm1(step)))
            self.a, self.b = (normal(1, T, HV).to(work.dtype) for _ in range(2))
            self.g = -torch.exp(self.A_log) * F.softplus(self.a.float() + self.dt_bias)
            self.beta = torch.sigmoid(self.b.float())
            # The slot of each sequence. 0 stays free: a peer takes it for padding.
            self.slots = (torch.randperm(work.slots, generator=random) + 1).int()
        else:
            self.g = -F.softplus(normal(1, T, HV) - 2)
            self.beta = short(torch.sigmoid(normal(1, T, HV)))

    def state_of(self, sequence):
        """[HV,V,K]"""
        return self.states[sequence % self.STATES]

    def initial_state(self, layout, dtype=torch.float32):
        """[N,HV,V,K] for "vk", [N,HV,K,V] for "kv"; a copy."""
        states = torch.stack([self.state_of(n) for n in range(self.work.sequences)]).to(dtype)
        return states if layout == "vk" else states.transpose(-1, -2).contiguous()

    def normalised(self, dtype=torch.float32):
        """q and k, for a peer that does not normalise."""
        return tuple((x.double() * norms(x)).to(dtype) for x in (self.q, self.k))

    def checked_sequences(self):
        """Those that a check looks at: all of a prefill, some of a large decode."""
        n = self.work.sequences
        return list(range(n)) if n <= 8 else sorted({0, 1, n // 3, n // 2, n - 2, n - 1})


class Pool:
    """The states of a decode. All peers update, or read, the same memory: the same pages."""

    def __init__(self, inputs):
        self.inputs, self.slots = inputs, inputs.work.slots
        self.memory = torch.empty((self.slots + 1) * HV * V * K, dtype=inputs.work.state_dtype)

    def view(self, layout):
        """[slots + 1,HV,V,K] or [slots + 1,HV,K,V]"""
        return self.memory.view(self.slots + 1, HV, *((V, K) if layout == "vk" else (K, V)))

    def fill(self, layout, indexed):
        """The initial states: of sequence n in slot slots[n], or, for a peer without indices, in slot n + 1."""
        view = self.view(layout)
        view[0] = 0
        for n in range(self.slots):
            state = self.inputs.state_of(n)
            view[int(self.inputs.slots[n]) if indexed else n + 1] = state if layout == "vk" else state.mT


def norms(x):
    """1 / |x|, in double."""
    return (x.double().square().sum(-1, keepdim=True) + EPS).rsqrt()


def recurrence(q, k, v, g, beta, state):
    """The definition, token by token: q, k [T,h,K], v [T,h,V], g, beta [T,h], state [h,V,K], all float64."""
    out = []
    for t in range(q.shape[0]):
        state = state * g[t].exp()[:, None, None]
        v_new = beta[t][:, None] * (v[t] - (state @ k[t][..., None])[..., 0])
        state = state + v_new[..., None] * k[t][:, None]
        out.append(SCALE * (state @ q[t][..., None])[..., 0])
    return torch.stack(out), state


def chunked(q, k, v, g, beta, state, C=64):
    """The same by chunks, for long sequences. reference() checks it against recurrence()."""
    out = []
    lower = torch.ones(C, C, dtype=torch.bool, device=q.device).tril()
    for start in range(0, q.shape[0], C):
        qc, kc, vc = (x[start : start + C].transpose(0, 1) for x in (q, k, v))
        n = qc.shape[1]
        G = g[start : start + C].cumsum(0).T[..., None]
        b = beta[start : start + C].T[..., None]
        decay = (G - G.mT).masked_fill(~lower[:n, :n], -torch.inf).exp()
        A = (b * (kc @ kc.mT) * decay).tril(-1)
        rhs = b * (vc - G.exp() * (kc @ state.mT))
        v_new = torch.linalg.solve_triangular(A, rhs, upper=False, unitriangular=True)
        out.append((SCALE * (G.exp() * (qc @ state.mT) + ((qc @ kc.mT) * decay) @ v_new)).transpose(0, 1))
        last = G[:, -1:]
        state = last.exp() * state + (v_new * (last - G).exp()).mT @ kc
    return torch.cat(out), state


def reference(inputs):
    """{sequence: (out [T,HV,V], state [HV,V,K])} of the checked sequences, float64."""
    found = {}
    for n in inputs.checked_sequences():
        begin, end = inputs.work.ranges[n]
        q, k = (
            (x[0, begin:end].double() * norms(x[0, begin:end])).repeat_interleave(HV // H, 1)
            for x in (inputs.q, inputs.k)
        )
        v, g, beta = (x[0, begin:end].double() for x in (inputs.v, inputs.g, inputs.beta))
        state = inputs.state_of(n).double()
        found[n] = chunked(q, k, v, g, beta, state)
        if n == inputs.checked_sequences()[-1]:
            # The reference itself, on its first tokens.
            few = min(200, end - begin)
            expected = recurrence(q[:few], k[:few], v[:few], g[:few], beta[:few], state)[0]
            off = relative(found[n][0][:few], expected)
            if not off < 1e-12:
                raise AssertionError(f"{inputs.work.id}: the chunked reference is off the recurrence by {off}")
    return found


def relative(found, expected):
    """Relative L2 error."""
    return ((found.double() - expected).norm() / expected.norm()).item()


def errors(result, expected):
    """Relative L2 errors (output, state) of result(sequence) -> (out [T,HV,V], state [HV,V,K])."""
    found = {n: result(n) for n in expected}
    return tuple(
        relative(
            torch.cat([found[n][i].reshape(-1) for n in expected]),
            torch.cat([expected[n][i].reshape(-1) for n in expected]),
        )
        for i in (0, 1)
    )
