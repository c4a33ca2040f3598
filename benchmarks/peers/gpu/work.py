"""What is timed on a GPU: the pieces of work, their inputs, the float64 reference, and the fewest bytes of each."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..work import K, V, chunked, norms, recurrence, relative

# (lengths of the sequences, q/k heads, value heads)
PREFILL = [
    ((2048,), 2, 8),
    ((8192,), 2, 8),
    ((32768,), 2, 8),
    ((8192,), 4, 16),
    ((2048,), 16, 32),
    ((8192,), 16, 32),
    ((32768,), 16, 32),
    ((131072,), 16, 32),
    ((1024,) * 8, 16, 32),
    ((4096,) * 8, 16, 32),
    ((1024, 7168), 16, 32),
    ((2048,) * 4, 16, 48),
    ((4096,) * 8, 16, 64),
    ((8192,), 16, 64),
]
QUICK_PREFILL = [((300,), 2, 8), ((64, 200), 16, 32), ((128,) * 4, 16, 48)]
DECODE, QUICK_DECODE = (1, 16, 64, 512), (1, 3)


@dataclass(frozen=True)
class Work:
    group: str  # prefill (float32 states); decode-fp32, decode-bf16 (dtype of the states)
    lengths: tuple[int, ...]
    H: int = 16
    HV: int = 32

    @property
    def name(self):
        if self.decode:
            return str(self.sequences)
        lengths = f"{self.sequences}x{self.lengths[0]}" if self.even else "+".join(map(str, self.lengths))
        return f"{lengths} {self.H}/{self.HV}"

    @property
    def id(self):
        return f"{self.group}-{self.name}".replace(" ", "-")

    @property
    def decode(self):
        return self.group.startswith("decode")

    @property
    def state_dtype(self):
        return torch.bfloat16 if self.group == "decode-bf16" else torch.float32

    @property
    def sequences(self):
        return len(self.lengths)

    @property
    def tokens(self):
        return sum(self.lengths)

    @property
    def even(self):
        return len(set(self.lengths)) == 1

    @property
    def ends(self):
        return torch.tensor(self.lengths).cumsum(0).tolist()

    @property
    def state_bytes(self):
        return self.sequences * self.HV * K * V * self.state_dtype.itemsize

    @property
    def bytes(self):
        """The fewest: each input read once, each result written once."""
        tokens = self.tokens * (2 * self.H * K * 2 + 2 * self.HV * V * 2 + self.HV * (4 if self.decode else 8))
        return tokens + 2 * self.state_bytes


def all_work(quick):
    found = [Work("prefill", *of) for of in (QUICK_PREFILL if quick else PREFILL)]
    for group in ("decode-fp32", "decode-bf16"):
        found += [Work(group, (1,) * n) for n in (QUICK_DECODE if quick else DECODE)]
    return found


class Inputs:
    """The tensors of a piece of work, equal for all peers: lists of copies. Together they are `cache` bytes or more,
    even where final states take the place of initial ones."""

    def __init__(self, work, cache, device):
        self.work, self.device = work, device
        self.copies = max(2, -(-cache // (work.bytes - work.state_bytes)))
        random = torch.Generator(device).manual_seed(1)

        def normal(*shape):
            return torch.randn(*shape, generator=random, device=device)

        def each(make):
            return [make() for _ in range(self.copies)]

        T, H, HV = work.tokens, work.H, work.HV
        self.q, self.k = (each(lambda: normal(1, T, H, K).bfloat16()) for _ in range(2))
        self.v = each(lambda: normal(1, T, HV, V).bfloat16())
        self.cu_seqlens = torch.tensor([0, *work.ends], dtype=torch.int32, device=device)
        if work.decode:
            # As the layers are initialised: A uniform, the step's logarithm uniform.
            self.A_log = torch.log(1 + 15 * torch.rand(HV, generator=random, device=device))
            step = torch.exp(-6.9 + 4.6 * torch.rand(HV, generator=random, device=device))
            self.dt_bias = torch.log(torch.expm1(step))
            self.a, self.b = (each(lambda: normal(1, T, HV).bfloat16()) for _ in range(2))
            self.g = [-torch.exp(self.A_log) * F.softplus(a.float() + self.dt_bias) for a in self.a]
            self.beta = [torch.sigmoid(b.float()) for b in self.b]
            # The slot of each sequence in its copy's pool. 0 stays free: a peer may take it for padding.
            self.slots = (torch.randperm(work.sequences, generator=random, device=device) + 1).int()
        else:
            self.g = each(lambda: -F.softplus(normal(1, T, HV) - 2))
            self.beta = each(lambda: torch.sigmoid(normal(1, T, HV)))
        # 0.1 times normal, the same in all copies: what is in a state changes no time.
        self.initial = (0.1 * normal(work.sequences, HV, V, K)).to(work.state_dtype)

    def states(self, layout="vk"):
        """A tensor a copy, [N,HV,V,K] for "vk", [N,HV,K,V] for "kv"."""
        initial = self.initial if layout == "vk" else self.initial.mT.contiguous()
        return [initial.clone() for _ in range(self.copies)]

    def pools(self):
        """A pool a copy, [N + 1,HV,V,K]: sequence n in slot slots[n]."""
        pool = self.initial.new_zeros(self.work.sequences + 1, *self.initial.shape[1:])
        pool[self.slots.long()] = self.initial
        return [pool.clone() for _ in range(self.copies)]

    def normalised(self):
        """q and k, for a peer that does not normalise."""
        return tuple([(x.float() * norms(x)).to(x.dtype) for x in of] for of in (self.q, self.k))

    def by_sequence(self, of):
        """[1,tokens,...] seen as [N,tokens of each,...]."""
        return [x.view(self.work.sequences, -1, *x.shape[2:]) for x in of]


def reference(inputs):
    """(out [tokens,HV,V], states [N,HV,V,K]) of copy 0, float64."""
    work, r = inputs.work, inputs.work.HV // inputs.work.H
    states = inputs.initial.double()

    def tokens(begin, end):
        q, k = (x[0][0, begin:end].double() * norms(x[0][0, begin:end]) for x in (inputs.q, inputs.k))
        v, g, beta = (x[0][0, begin:end].double() for x in (inputs.v, inputs.g, inputs.beta))
        return q.repeat_interleave(r, 1), k.repeat_interleave(r, 1), v, g, beta

    if work.decode:
        # Sequences as so many more heads of one token.
        flat = [x.flatten(0, 1)[None] for x in tokens(0, work.tokens)]
        out, final = recurrence(*flat, states.flatten(0, 1))
        return out.view(work.tokens, work.HV, V), final.view_as(states)
    outs, finals = [], []
    for n, end in enumerate(work.ends):
        of = tokens(end - work.lengths[n], end)
        out, final = chunked(*of, states[n])
        outs.append(out)
        finals.append(final)
        if n == 0:
            # The reference itself, on its first tokens.
            expected = recurrence(*(x[:130] for x in of), states[0])[0]
            off = relative(out[:130], expected)
            if not off < 1e-12:
                raise AssertionError(f"{work.id}: the chunked reference is off the recurrence by {off}")
    return torch.cat(outs), torch.stack(finals)
