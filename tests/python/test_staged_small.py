"""gating, l2norm, rms_norm_gated, causal_conv1d, solve_tril of the staged operators."""

import oracle
import pytest
import torch
from gdn import staged
from tolerance import assert_close, error


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gating(dtype):
    A_log, dt_bias = normal(4, seed=1), normal(4, seed=2)
    a, b = normal(2, 9, 4, seed=3, dtype=dtype) * 8, normal(2, 9, 4, seed=4, dtype=dtype) * 8
    g, beta = staged.gating(a, A_log, dt_bias, b, softplus_beta=0.7, softplus_threshold=3.0)
    expected_g, expected_beta = oracle.gates(A_log, a, dt_bias, b, 0.7, 3.0)
    assert g.dtype == beta.dtype == torch.float32
    assert_close(g, expected_g)
    assert_close(beta, expected_beta)
    doubled = staged.gating(a, A_log, None, b, allow_neg_eigval=True, beta_dtype=dtype)[1]
    assert doubled.dtype == dtype
    assert_close(doubled, expected_beta * 2)
    assert staged.gating(a, A_log)[1].shape == (0,)


def test_gating_at_the_ends():
    a = torch.tensor([[[1e4, -1e4, torch.inf, -torch.inf, torch.nan]]])
    g, _ = staged.gating(a, torch.zeros(5))
    assert g[0, 0, 0] == -1e4 and g[0, 0, 1] == 0 and g[0, 0, 2] == -torch.inf and g[0, 0, 3] == 0
    assert g[0, 0, 4].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_l2norm(dtype):
    x = normal(5, 3, 32, dtype=dtype)
    x[0, 0] = 0
    y = staged.l2norm(x)
    assert y.dtype == dtype and (y[0, 0] == 0).all()
    assert_close(y, oracle.l2norm(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_gated(dtype):
    x, z, weight = (
        normal(5, 32, dtype=dtype),
        normal(5, 32, seed=1, dtype=dtype),
        normal(32, seed=2),
    )
    x64, z64 = x.double(), z.double()
    expected = x64 * (x64.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    expected = expected * weight.double() * z64 * z64.sigmoid()
    assert_close(staged.rms_norm_gated(x, z, weight, eps=1e-5), expected)


LENGTHS = [[6], [1, 0, 5, 2], [0, 0]]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("S", [None, 3, 5])
@pytest.mark.parametrize("silu", [False, True])
def test_convolution(lengths, S, silu):
    N, D, W = len(lengths), 6, 4
    x, weight, bias = normal(1, sum(lengths) + 2, D), normal(D, W, seed=1), normal(D, seed=2)
    state = None if S is None else normal(N, D, S, seed=3)
    cu = torch.tensor([0, *lengths]).cumsum(0)
    y, last = staged.causal_conv1d(
        x, weight, bias, state, silu=silu, output_final_state=True, cu_seqlens=cu
    )
    histories = torch.zeros(N, D, W - 1) if S is None else state
    expected, expected_last = oracle.causal_conv1d(x, weight, bias, histories, silu, cu)
    assert_close(y, expected)
    assert_close(last, expected_last)


def test_convolution_of_rows():
    x, weight = normal(3, 5, 4), normal(4, 2, seed=1)
    y, _ = staged.causal_conv1d(x, weight)
    expected, _ = oracle.causal_conv1d(x, weight, None, torch.zeros(3, 4, 1), False)
    assert_close(y, expected)


def test_convolution_in_place_over_a_pool():
    pool = normal(7, 4, 3, seed=3)
    before = pool.clone()
    x, weight, cu = normal(1, 9, 4), normal(4, 4, seed=1), torch.tensor([0, 2, 5, 9])
    pool[2] = torch.nan
    y = staged.causal_conv1d_(
        x, weight, None, pool, silu=True, cu_seqlens=cu, null_slot=0,
        initial_state_indices=torch.tensor([5, 0, 2]),
        has_initial_state=torch.tensor([True, True, False]),
    )  # fmt: skip
    histories = torch.stack([before[5], before[5], torch.zeros(4, 3)])
    expected, last = oracle.causal_conv1d(x, weight, None, histories, True, cu)
    expected[:, 2:5] = 0
    assert_close(y, expected)
    for slot in (0, 1, 3, 4, 6):
        assert torch.equal(pool[slot], before[slot])
    assert_close(pool[5], last[0])
    assert_close(pool[2], last[2])


def test_convolution_verify_with_a_slot_a_token():
    pool, x, weight = normal(7, 4, 3, seed=3), normal(2, 2, 4), normal(4, 4, seed=1)
    before = pool.clone()
    indices = torch.tensor([[5, 1], [2, 6]])
    y = staged.causal_conv1d_(
        x, weight, None, pool, initial_state_indices=indices, num_accepted=torch.tensor([2, 1])
    )
    expected, last = oracle.causal_conv1d(x, weight, None, before[[1, 2]], False)
    _, first = oracle.causal_conv1d(x[:, :1], weight, None, before[[1, 2]], False)
    assert_close(y, expected)
    for slot, state in ((5, first[0]), (1, last[0]), (2, first[1]), (6, last[1])):
        assert_close(pool[slot], state)


def test_convolution_verify_with_one_slot_drops_what_was_rejected():
    S, T = 5, 3  # S >= W - 2 + T
    pool, weight = normal(2, 4, S, seed=3), normal(4, 4, seed=1)
    x = normal(2, T, 4)
    kept = torch.stack([pool[0], torch.cat([torch.zeros(4, 2), pool[1, :, : S - 2]], 1)])
    y = staged.causal_conv1d_(x, weight, None, pool, num_accepted=torch.tensor([3, 1]))
    expected, last = oracle.causal_conv1d(x, weight, None, kept, False)
    assert_close(y, expected)
    assert_close(pool, last)


@pytest.mark.parametrize("n", [1, 20, 64])
@pytest.mark.parametrize("method", ["exact", "neumann"])
def test_solve_tril(n, method):
    lower = normal(2, 3, n, n) * 0.1
    inverse, residual = staged.solve_tril(lower, method=method, output_residual=True)
    L = lower.double().tril(-1) + torch.eye(n, dtype=torch.float64)
    assert_close(inverse, torch.linalg.inv(L))
    assert residual.shape == (2, 3) and (residual < 1e-5).all()
    assert staged.solve_tril(lower)[1].shape == (0,)


def test_solve_tril_in_bfloat16_ends_in_garbage_where_keys_are_identical():
    lower = torch.full((1, 128, 128), 0.99).bfloat16()
    expected = torch.linalg.inv(lower.double().tril(-1) + torch.eye(128, dtype=torch.float64))
    exact = staged.solve_tril(lower)[0]
    rounded = staged.solve_tril(lower, method="neumann", compute="bfloat16")[0]
    assert exact.dtype == rounded.dtype == torch.bfloat16
    assert_close(exact, expected)
    assert not error(rounded, expected) < 1


def test_solve_tril_errors():
    lower = normal(1, 4, 4)
    with pytest.raises(ValueError, match='compute is "bfloat16"'):
        staged.solve_tril(lower, compute="bfloat16")
