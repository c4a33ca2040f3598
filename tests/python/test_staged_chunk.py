"""staged.chunk against the token recurrence in float64."""

import inputs
import oracle
import pytest
import torch
from gdn import staged
from tolerance import assert_close

BOTH = pytest.mark.parametrize("phase_b", ["legacy", "optimized"])
SCALE = 64**-0.5


def run(x, **options):
    options = {"state_layout": "vk", "output_final_state": True, **options}
    return staged.chunk(*x.tokens, options.pop("initial_state", x.state), **options)


@BOTH
@pytest.mark.parametrize("kind", ["usual", *inputs.HARD])
def test_within_the_bounds_of_float32(kind, phase_b):
    x = inputs.of_kind(1, T=200, kind=kind, K=64, V=48)
    out, state = run(x, phase_b=phase_b)
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    hard = kind != "usual"
    assert_close(out, expected, kind, hard=hard)
    assert_close(state, last, kind, hard=hard, state=True)


@BOTH
@pytest.mark.parametrize("kind", ["usual", *inputs.HARD])
def test_bfloat16_products_are_within_their_bounds(kind, phase_b):
    x = inputs.of_kind(2, T=200, H=1, HV=2, K=128, V=128, kind=kind, dtype=torch.bfloat16)
    out, state = run(x, phase_b=phase_b, compute="bfloat16")
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, 128**-0.5)
    how = {"compute": "bfloat16", "hard": kind != "usual"}
    assert out.dtype == torch.bfloat16
    assert_close(out, expected, kind, **how)
    assert_close(state, last, kind, state=True, **how)


@BOTH
@pytest.mark.parametrize("chunk_size", [1, 7, 16, 64, 100])
def test_any_chunk_size_computes_the_same(chunk_size, phase_b):
    x = inputs.of_kind(3, B=2, T=130, K=32, V=16)
    out, state = run(x, chunk_size=chunk_size, phase_b=phase_b)
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, 32**-0.5)
    assert_close(out, expected)
    assert_close(state, last, state=True)


@pytest.mark.parametrize("context_split", ["auto", "fixed", "off"])
def test_a_context_split_changes_no_bit(context_split):
    x = inputs.of_kind(5, T=2200, K=16, V=16)
    expected, last = run(x)
    out, state = run(x, context_split=context_split)
    assert torch.equal(out, expected) and torch.equal(state, last)
    state = x.state.clone()
    out = staged.chunk_(*x.tokens, state, state_layout="vk", context_split=context_split)
    assert torch.equal(out, expected) and torch.equal(state, last)


@pytest.mark.parametrize("T", [0, 1, 2, 63, 64, 65])
def test_short_rows(T):
    x = inputs.of_kind(4, B=2, T=T)
    out, state = run(x)
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    assert_close(out, expected)
    assert_close(state, last, state=True)
    assert state.data_ptr() != x.state.data_ptr()


LENGTHS = [[1, 63, 64, 65, 0, 130], [0, 0, 5], [0], [100, 130], [130, 100]]


@BOTH
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("bucket", [None, "longest", "all"])
def test_unequal_lengths_and_rows_past_the_end(lengths, bucket, phase_b):
    total = sum(lengths)
    x = inputs.of_kind(5, T=total + 7, N=len(lengths))
    cu = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    max_length = {None: None, "longest": max(lengths), "all": total + 7}[bucket]
    out, state = run(x, cu_seqlens=cu, max_length=max_length, phase_b=phase_b)
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE, cu)
    assert_close(out, expected)
    assert_close(state, last, state=True)
    assert (out[:, total:] == 0).all()


def test_no_sequences_at_all():
    x = inputs.of_kind(5, T=7, N=0)
    out, state = run(x, cu_seqlens=torch.tensor([0]))
    assert (out == 0).all() and state.shape == (0, 4, 64, 64)


def test_nan_stays_in_its_sequence_and_head():
    x = inputs.of_kind(6, T=150, N=2)
    x.v[0, 20, 1] = torch.nan
    out, state = run(x, cu_seqlens=torch.tensor([0, 70, 150]))
    others = [0, 2, 3]
    assert out[:, :, others].isfinite().all() and out[:, 70:].isfinite().all()
    assert state[:, others].isfinite().all() and state[1].isfinite().all()
    assert out[0, 20, 1].isnan().all() and state[0, 1].isnan().any()


def test_nan_in_a_gate_is_not_hidden_by_the_clamp():
    x = inputs.of_kind(6, T=20)
    x.g[0, 3, 0] = torch.nan
    out, state = run(x)
    assert out[0, 3:, 0].isnan().all() and state[0, 0].isnan().all()
    assert out[:, :, 1:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_16_bit_tensors_are_rounded_once(dtype, state_dtype):
    x = inputs.of_kind(7, T=130, dtype=dtype, state_dtype=state_dtype)
    out, state = run(x)
    assert out.dtype == dtype and state.dtype == state_dtype
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    assert_close(out, expected)
    assert_close(state, last, state=True)


def test_layouts_are_transposes():
    x = inputs.of_kind(8, K=32, V=16)
    out, state = run(x)
    other, turned = run(x, state_layout="kv", initial_state=x.state.mT.contiguous())
    assert torch.equal(out, other) and torch.equal(state, turned.mT) and turned.is_contiguous()


def test_l2norm_inside_and_scale():
    x = inputs.of_kind(9)
    x.q, x.k = x.q * 3, x.k * 0.2
    out, state = run(x, use_qk_l2norm=True, scale=0.7)
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, 0.7, use_qk_l2norm=True)
    assert_close(out, expected)
    assert_close(state, last, state=True)


@pytest.mark.parametrize("double", [False, True])
def test_gates_inside(double):
    x = inputs.of_kind(10)
    r = torch.Generator().manual_seed(1)
    A_log, dt_bias = torch.randn(4, generator=r), torch.randn(4, generator=r)
    a, b = torch.randn(1, 130, 4, generator=r), torch.randn(1, 130, 4, generator=r)
    out, state = staged.chunk(
        x.q, x.k, x.v, None, None, x.state, state_layout="vk", output_final_state=True,
        A_log=A_log, a=a, dt_bias=dt_bias, b=b, allow_neg_eigval=double,
    )  # fmt: skip
    g, beta = oracle.gates(A_log, a, dt_bias, b)
    beta = beta * 2 if double else beta
    expected, last, _ = oracle.recurrence(x.q, x.k, x.v, g, beta, x.state, SCALE)
    assert_close(out, expected, hard=double)
    assert_close(state, last, hard=double, state=True)


def test_without_beta_it_is_one():
    x = inputs.of_kind(11, kind="beta_1")
    expected, _ = run(x)
    x.beta = None
    out, _ = run(x)
    assert torch.equal(out, expected)


def test_results_not_asked_for_are_empty_and_inputs_stay():
    x = inputs.of_kind(12)
    before = [t.clone() for t in (*x.tokens, x.state)]
    _, state = run(x, output_final_state=False)
    assert state.shape == (0,)
    assert all(torch.equal(a, b) for a, b in zip(before, (*x.tokens, x.state)))


def test_neumann_agrees_where_it_converges_and_needs_its_iterations():
    x = inputs.of_kind(13, T=64)
    expected, _, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    out, _ = run(x, solver="neumann", iterations=14)
    assert_close(out, expected)
    out, _ = run(x, solver="neumann", iterations=1)
    assert (out.double() - expected).norm() > 1e-3 * expected.norm()


def test_slices_of_a_fused_buffer():
    x = inputs.of_kind(14, H=2, HV=2, K=32, V=32)
    fused = torch.cat([x.q, x.k, x.v], dim=-1)
    expected, _ = run(x)
    x.q, x.k, x.v = fused[..., :32], fused[..., 32:64], fused[..., 64:]
    out, _ = run(x)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize(
    "operator,options", [("chunk", {"phase_b": "legacy"}), ("chunk", {"phase_b": "optimized"}),
                         ("recurrent", {})]
)  # fmt: skip
def test_a_state_that_is_no_number_is_handed_through_and_stays_in_its_sequence(
    operator, options, bad
):
    """Past a sequence's end nothing happens to its state, whatever is in it, while others go on."""
    x = inputs.of_kind(7, T=70, K=8, V=8, N=3)
    cu = torch.tensor([0, 0, 3, 70])
    states = {}
    for name, value in {"bad": bad, "good": 1.0}.items():
        start = x.state.clone()
        start[:2, 0, 1, 2] = value
        states[name] = getattr(staged, operator)(
            *x.tokens, start, state_layout="vk", output_final_state=True, cu_seqlens=cu, **options
        )
        assert torch.equal(states[name][1][0].nan_to_num(7.0), start[0].nan_to_num(7.0))
    (out, bad_state), (wanted, good_state) = states["bad"], states["good"]
    assert torch.equal(out[:, 3:], wanted[:, 3:])
    assert torch.equal(bad_state[2], good_state[2])
    assert torch.equal(bad_state[1, 1:], good_state[1, 1:])
    assert not bad_state[1, 0].isfinite().all()
