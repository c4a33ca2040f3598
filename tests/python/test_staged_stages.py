"""Each stage by itself."""

import inputs
import pytest
import torch
from gdn.staged.decay import clamp_log_decay, decay_of_gates, decay_of_sums
from gdn.staged.phase_a import phase_a
from gdn.staged.phase_b import phase_b_legacy, phase_b_optimized
from gdn.staged.preprocess import preprocess
from gdn.staged.sequences import EqualChunks, PackedChunks
from gdn.staged.solve_tril import solve_exact, solve_neumann
from tolerance import assert_close


def test_tables_give_back_what_they_cut():
    x = torch.arange(2 * 13 * 3.0).reshape(2, 13, 3)
    table = EqualChunks(2, 13, 5)
    walked = torch.stack([table.at(table.split(x), s) for s in range(table.steps)], dim=1)
    assert walked.shape == (2, 3, 5, 3)
    assert torch.equal(table.join(walked), x)

    row = x.reshape(1, 26, 3)
    table = PackedChunks(torch.tensor([0, 4, 4, 17, 23]), 26, 13, 5)
    walked = torch.stack([table.at(table.split(row), s) for s in range(table.steps)], dim=1)
    assert walked.shape == (4, 3, 5, 3)
    assert torch.equal(walked[2, 2, :3], row[0, 14:17]) and (walked[2, 2, 3:] == 0).all()
    assert (walked[1] == 0).all() and (walked[0, 1:] == 0).all()
    joined = table.join(walked)
    assert torch.equal(joined[:, :23], row[:, :23]) and (joined[:, 23:] == 0).all()


def test_a_malformed_cu_seqlens_on_a_device_reads_nothing_outside():
    x = torch.ones(1, 10, 2)
    for cu in ([0, -5, 99], [3, 1, 2], [50, 60]):
        table = PackedChunks(torch.tensor(cu), 10, 10, 4)
        walked = torch.stack([table.at(table.split(x), s) for s in range(table.steps)], dim=1)
        assert table.join(walked).shape == x.shape


@pytest.mark.parametrize("large", [-100.0, -1e4, -torch.inf])
def test_decay_keeps_its_digits_after_a_large_gate(large):
    g = -torch.rand(64, generator=torch.Generator().manual_seed(0)) * 1e-2
    g[10] = large
    decay = decay_of_gates(clamp_log_decay(g))
    for i in range(64):
        for j in range(i + 1):
            expected = g[j + 1 : i + 1].double().sum().exp()
            assert abs(decay.between[i, j] - expected) <= 3e-7 * expected + 1e-38
    assert (decay.between.triu(1) == 0).all()
    assert torch.equal(decay.to_end, decay.between[-1])


def test_decay_of_sums_is_that_of_gates():
    g = -torch.rand(2, 32, generator=torch.Generator().manual_seed(1))
    a, b = decay_of_gates(g), decay_of_sums(g.cumsum(-1))
    for x, y in zip(a, b):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=0)


def test_growing_gates_overflow_nowhere_that_they_should_not():
    decay = decay_of_gates(clamp_log_decay(torch.full((64,), -96.0 / 4)))
    assert decay.between.isfinite().all()


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 64, 100, 256])
def test_exact_inverse(n):
    r = torch.Generator().manual_seed(n)
    L = torch.tril(torch.randn(3, n, n, generator=r) * 0.3, -1)
    X = solve_exact(L)
    expected = torch.linalg.inv(L.double() + torch.eye(n, dtype=torch.float64))
    # The inverse grows with n and the error with it: as float32's own triangular solver.
    eye = torch.eye(n).expand(3, n, n)
    peer = torch.linalg.solve_triangular(L + eye, eye, upper=False, unitriangular=True)
    assert (X - expected).norm() <= 2 * (peer - expected).norm() + 1e-7 * expected.norm()
    assert (X.triu(1) == 0).all() and (X.diagonal(dim1=-2, dim2=-1) == 1).all()


def test_inverse_of_identical_keys_exact_and_neumann():
    L = torch.tril(torch.full((64, 64), 0.99), -1)
    expected = torch.linalg.inv(L.double() + torch.eye(64, dtype=torch.float64))
    assert_close(solve_exact(L), expected)
    assert (solve_neumann(L, 5) - expected).norm() > expected.norm()  # on its way it explodes


def test_inverse_reads_the_strictly_lower_part_alone():
    L = torch.randn(20, 20, generator=torch.Generator().manual_seed(3)) * 0.2
    for solve in (solve_exact, solve_neumann):
        expected = solve(torch.tril(L, -1))
        assert torch.equal(solve(L.triu().fill_diagonal_(torch.nan) + torch.tril(L, -1)), expected)


def test_both_forms_of_phase_b_agree():
    x = inputs.of_kind(20, B=2, T=130, K=32, V=16)
    table = EqualChunks(2, 130, 64)
    chunks = preprocess(*x.tokens, table)
    a = phase_a(chunks)
    legacy = phase_b_legacy(chunks, a, x.state, table, 1.0)
    optimized = phase_b_optimized(chunks, a, x.state, table, 1.0)
    assert legacy.v_new is not None and optimized.v_new is None
    torch.testing.assert_close(legacy.state, optimized.state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(legacy.out, optimized.out, rtol=1e-5, atol=1e-5)


def test_u_and_w_solve_their_systems():
    x = inputs.of_kind(21, T=64, kind="common_direction")
    chunks = preprocess(*x.tokens, EqualChunks(1, 64, 64))
    a = phase_a(chunks)
    L = a.A.double() + torch.eye(64, dtype=torch.float64)
    assert_close((L @ a.u.double()).float(), (chunks.beta[..., None] * chunks.v), hard=True)
    right = (chunks.beta * chunks.decay.from_start)[..., None] * chunks.k
    assert_close((L @ a.w.double()).float(), right, hard=True)
