"""gdn.compat.hpu_gdn_pytorch: the functions under the public ones."""

import gdn.compat.hpu_gdn_pytorch as module
import inputs
import oracle
import pytest
import torch
from tolerance import assert_close

SCALE = 64**-0.5


def stages(x, S, L, C=64, l2norm=False):
    """The three stages, called one after the other as a caller would."""
    qf, kf, vf, bf, sums, state, H, chunks, scale, K, V, S = module.hpu_chunk_gdr_preprocess(
        *x.tokens, None, x.state, l2norm, C, S, L
    )
    u, w, q, k, g = module.hpu_chunk_gdr_phase_a(qf, kf, vf, bf, sums, L, C, S, chunks, H, K, V, 14)
    assert u.shape == (S, chunks, C, H, V) and g.shape == (S, chunks, C, H)
    assert w.shape == q.shape == k.shape == (S, chunks, C, H, K)
    return module.hpu_chunk_gdr_phase_b(
        u, w, q, k, g, state, scale, S, chunks, L, H, K, V, True, x.state.dtype
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("length", [1, 64, 130])
def test_the_stages_make_the_operator(monkeypatch, exact, legacy, length):
    monkeypatch.setattr(module, "_USE_EXACT_SOLVE", exact)
    monkeypatch.setattr(module, "_USE_LEGACY_PHASE_B", legacy)
    x = inputs.of_kind(1, B=2, T=length)
    out, state = stages(x, 2, length)
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    assert_close(out.view(2, length, 4, 64), expected)
    assert_close(state, last, state=True)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_stages_in_bfloat16(monkeypatch, legacy):
    monkeypatch.setattr(module, "_GDN_COMPUTE_DTYPE", torch.bfloat16)
    monkeypatch.setattr(module, "_USE_LEGACY_PHASE_B", legacy)
    x = inputs.of_kind(2, B=2, T=200, K=128, V=128, dtype=torch.bfloat16)
    out, state = stages(x, 2, 200)
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, 128**-0.5)
    how = {"compute": "bfloat16"}
    assert_close(out.view(2, 200, 4, 128), expected, **how)
    assert_close(state, last, state=True, **how)


def test_the_phase_a_of_hard_inputs_honours_the_solver(monkeypatch):
    x = inputs.of_kind(3, B=1, T=128, kind="identical_keys")
    monkeypatch.setattr(module, "_USE_EXACT_SOLVE", True)
    out, _ = stages(x, 1, 128, C=128)
    expected, _, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    assert_close(out.view(1, 128, 4, 64), expected, hard=True)
    monkeypatch.setattr(module, "_USE_EXACT_SOLVE", False)
    monkeypatch.setattr(module.stages, "_hpu_solve_lower_triangular_batched", one_iteration)
    out, _ = stages(x, 1, 128, C=128)
    assert not (out.view(1, 128, 4, 64) - expected).norm() < expected.norm()


def one_iteration(lmat, eye, use_vectorized, neumann_iters):
    return module._hpu_solve_lower_triangular_batched(lmat, eye, use_vectorized, 1)


def test_gates_of_minus_infinity_pass_the_stages():
    x = inputs.of_kind(4, B=1, T=100, kind="g_-inf_once")
    out, state = stages(x, 1, 100)
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    assert_close(out.view(1, 100, 4, 64), expected, hard=True)
    assert_close(state, last, hard=True, state=True)


def test_the_path_without_buckets():
    x = inputs.of_kind(5, T=230, N=3)
    cu = torch.tensor([0, 100, 100, 220])
    out, state = module._hpu_chunk_gated_delta_rule_legacy(
        *x.tokens, None, x.state, True, cu, False, 64, 14, 1, 230, 2, 4, 64, 64, x.q.device
    )
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE, cu)
    assert_close(out, expected)
    assert_close(state, last, state=True)


def test_the_pipeline_over_ranges_of_any_lengths():
    x = inputs.of_kind(6, T=150, N=4)
    ranges = [(0, 70), (70, 70), (80, 81), (81, 150)]  # five tokens and five more are nobody's
    cu = torch.tensor([0, 70, 70, 80, 81, 150])
    q, k = (t[0].repeat_interleave(2, dim=1) for t in (x.q, x.k))
    sums = torch.zeros(150, 4)
    for begin, end in ranges:
        for i in range(begin, end, 32):
            j = min(i + 32, end)
            sums[i:j] = x.g[0, i:j].cumsum(0)
    out, state = module._chunk_precomputed_pipeline(
        q, k, x.v[0], sums, x.beta[0], x.state, ranges, 32, SCALE, 4, 64, 64, True, 14
    )
    states = torch.stack([x.state[0], x.state[1], torch.zeros(4, 64, 64), *x.state[2:]])
    expected, last, _ = oracle.recurrence(*x.tokens, states, SCALE, cu)
    expected[:, 70:80] = 0
    assert_close(out[None], expected)
    assert_close(state, last[[0, 1, 3, 4]], state=True)


def test_a_chunk_of_one_sequence_and_a_step_of_all():
    x = inputs.of_kind(7, T=40)
    q, k = (t[0].repeat_interleave(2, dim=1) for t in (x.q, x.k))
    sums = x.g[0].cumsum(0)
    out, state = module._chunk_vectorized_body(
        q, k, x.v[0], sums, x.beta[0], x.state[0], torch.eye(40), SCALE, 14
    )
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    assert_close(out[None], expected)
    assert_close(state[None], last, state=True)

    u, w, q, k, g = module.hpu_chunk_gdr_phase_a(
        q, k, x.v[0], x.beta[0], sums, 40, 40, 1, 1, 4, 64, 64, 14
    )
    out, state = module._phase_b_step(
        u[:, 0], w[:, 0], k[:, 0], g[:, 0], q[:, 0], x.state, SCALE, 1, 4, 64, 64
    )
    assert_close(out, expected)
    assert_close(state, last, state=True)


def test_a_token_and_the_path_of_many():
    x = inputs.of_kind(8, B=2, T=3, N=4)
    before, indices = x.state.clone(), torch.tensor([3, -1])
    expected, last, _ = oracle.recurrence(*x.tokens, before[[3, 0]], SCALE)
    out, state = module._recurrent_timestep_body(
        x.q[0, 0], x.k[0, 0], x.v[0, 0], x.g[0, 0], x.beta[0, 0], before[3], SCALE, 4, 2, 64
    )
    assert_close(out, expected[0, 0])
    out, pool = module._recurrent_general_path(
        *x.tokens, SCALE, x.state, True, None, indices, False, 2, 3, 2, 4, 64, 64, x.q.device
    )
    assert_close(out[0], expected[0])
    assert pool is x.state and (out[1] == 0).all()
    assert_close(pool[3], last[0], state=True)


@pytest.mark.parametrize("exact", [False, True])
def test_the_solver(monkeypatch, exact):
    monkeypatch.setattr(module, "_USE_EXACT_SOLVE", exact)
    r = torch.Generator().manual_seed(0)
    L = torch.tril(torch.randn(2, 3, 20, 20, generator=r) * 0.2, -1) + torch.eye(20)
    solve = module._hpu_solve_lower_triangular_batched
    assert_close(solve(L, torch.eye(20), True, 14), torch.linalg.inv(L.double()))
    assert solve(L.bfloat16(), torch.eye(20), False, 14).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="Expected square matrix"):
        solve(L[..., :3], torch.eye(20), True, 14)
    with pytest.raises(ValueError, match="Expected eye shape"):
        solve(L, torch.eye(3), True, 14)
    if exact:
        solve(L, torch.eye(20), True, 0)
    else:
        with pytest.raises(ValueError, match="neumann_iters must be > 0"):
            solve(L, torch.eye(20), True, 0)
    assert_close(module._solve_exact_forward_sub(L, torch.eye(20)), torch.linalg.inv(L.double()))


def test_small_parts():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert_close(module._l2norm_last_dim(x, 0.5), oracle.l2norm(x, 0.5))
    q, k = module._preprocess_qk_l2norm(x.bfloat16(), x.half())
    assert q.dtype == k.dtype == torch.float32
    assert_close(q, oracle.l2norm(x.bfloat16()))
    ranges = module._materialize_seq_ranges(torch.tensor([-1, 3, 2, 9]), 5)
    assert ranges == [(0, 3), (3, 3), (2, 5)]
    pool = torch.arange(4.0).view(4, 1)
    read = module._eager_read_state(pool, torch.tensor([2, 0]), torch.bfloat16)
    assert read.tolist() == [[2], [0]] and read.dtype == torch.bfloat16
    core = torch.arange(2 * 2 * 3 * 4 * 5.0).view(2, 2, 3, 4, 5)
    out = module._eager_reshape_output(core, 2, 8, 7, 3, 5)
    assert out.shape == (14, 3, 5) and torch.equal(out[7 + 5, 2], core[1, 1, 2, 1])


def test_head_mapping_error_of_the_stage():
    x = inputs.of_kind(0, T=4, H=2, HV=3)
    with pytest.raises(ValueError, match="Unsupported head mapping"):
        module.hpu_chunk_gdr_preprocess(*x.tokens, None, None, False, 64, 1, 4)
