"""The staged pipeline stage by stage against the same stages of the C++ reference, in double."""

import inputs
import pytest
import torch
from gdn.staged.decay import clamp_log_decay
from gdn.staged.phase_a import phase_a
from gdn.staged.phase_b import hoist, phase_b_legacy, phase_b_optimized
from gdn.staged.preprocess import preprocess
from gdn.staged.sequences import EqualChunks, PackedChunks
from tolerance import assert_close

NAMES = (
    "q k v beta g G state A L T u w v_new legacy_states legacy_out "
    "attention core carry M N optimized_states optimized_out"
).split()
K, V, C = 32, 24, 16
CU = torch.tensor([0, 40, 40, 65])


def reference(x, cu, sequence, head):
    stages = torch.ops.gdn.reference_chunk_stages(
        *x.tokens, x.state, state_layout="vk", sequence=sequence, head=head, chunk_size=C,
        use_qk_l2norm=True, cu_seqlens=cu,
    )  # fmt: skip
    assert len(stages) == len(NAMES)
    return dict(zip(NAMES, stages))


@pytest.mark.parametrize("kind", ["usual", "common_direction", "g_-100_once"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_stage(kind, packed):
    if packed:
        x, cu = inputs.of_kind(1, T=65, N=3, H=1, HV=2, K=K, V=V, kind=kind), CU
        table = PackedChunks(CU, 65, 40, C)
    else:
        x, cu = inputs.of_kind(2, B=3, T=40, H=1, HV=2, K=K, V=V, kind=kind), None
        table = EqualChunks(3, 40, C)
    x.q, x.k = x.q * 3, x.k * 0.5
    chunks = preprocess(*x.tokens, table, use_qk_l2norm=True)
    a = phase_a(chunks)
    scale = K**-0.5
    legacy = phase_b_legacy(chunks, a, x.state, table, scale)
    optimized = phase_b_optimized(chunks, a, x.state, table, scale)
    hoisted = hoist(chunks, a, scale)
    sums = torch.cumsum(table.split(clamp_log_decay(x.g)), 1).transpose(1, 2)
    hard = kind != "usual"

    for n in range(3):
        for head in range(2):
            expected = reference(x, cu, n, head)
            steps = expected["q"].shape[0]

            def compare(name, got):
                got = [table.at(got, step)[n, head] for step in range(steps)]
                got = torch.stack(got) if got else torch.empty(expected[name].shape)
                assert_close(got, expected[name], f"{name} of {n}, {head}", hard=hard)

            for name in ("q", "k", "v", "beta"):
                compare(name, getattr(chunks, name))
            compare("G", sums)
            expected["between"] = (
                (expected["G"][:, :, None] - expected["G"][:, None, :]).exp().tril()
            )
            compare("between", chunks.decay.between)
            for name in ("A", "T", "u", "w"):
                compare(name, getattr(a, name))
            for name in hoisted._fields:
                compare(name, getattr(hoisted, name))
            for form, walked in (("legacy", legacy), ("optimized", optimized)):
                assert_close(walked.out[n, :steps, head], expected[form + "_out"], form, hard=hard)
                last = expected[form + "_states"][-1]
                assert_close(walked.state[n, head], last, form, hard=hard, state=True)
            assert_close(legacy.v_new[n, :steps, head], expected["v_new"], "v_new", hard=hard)
