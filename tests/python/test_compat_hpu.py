"""gdn.compat.hpu_gdn_pytorch: names, switches, public operators, errors."""

import inspect
import os
import subprocess
import sys

import gdn.compat.hpu_gdn_pytorch as module
import inputs
import oracle
import pytest
import torch
from tolerance import assert_close

SCALE = 64**-0.5
PARAMETERS = {
    "_chunk_precomputed_pipeline": "qf kf vf g_cumsum bf init_state seq_ranges chunk_size scale H Kdim "
    "Vdim output_final_state neumann_iters",
    "_chunk_vectorized_body": "q_chunk k_chunk v_chunk g_chunk beta_chunk state eye scale neumann_iters",
    "_eager_read_state": "state idx dtype",
    "_eager_reshape_output": "core_h S padded_len seq_len H Vdim",
    "_hpu_chunk_gated_delta_rule_legacy": "q k v g beta scale initial_state output_final_state "
    "cu_seqlens use_qk_l2norm_in_kernel chunk_size neumann_iters B T H HV Kdim Vdim device",
    "_hpu_chunk_gdr_phase_b_legacy": "u_all w_all q_chunks k_chunks g_chunks init_state scale S "
    "num_chunks seq_len H Kdim Vdim output_final_state output_dtype=None",
    "_hpu_chunk_gdr_phase_b_optimized": "u_all w_all q_chunks k_chunks g_chunks init_state scale S "
    "num_chunks seq_len H Kdim Vdim output_final_state output_dtype=None",
    "_hpu_solve_lower_triangular_batched": "lmat eye use_vectorized neumann_iters",
    "_l2norm_last_dim": "x eps=1e-06",
    "_materialize_seq_ranges": "cu_seqlens total_tokens",
    "_phase_b_step": "u_c w_c k_c g_c q_c states scale S H Kdim Vdim",
    "_preprocess_qk_l2norm": "q k",
    "_recurrent_general_path": "q k v g beta scale initial_state inplace_final_state cu_seqlens "
    "ssm_state_indices use_qk_l2norm_in_kernel B T H HV Kdim Vdim device",
    "_recurrent_timestep_body": "q_t k_t v_t g_t b_t h_state scale HV H Kdim",
    "_solve_exact_forward_sub": "lmat eye",
    "hpu_chunk_gated_delta_rule": "q k v g beta scale=None initial_state=None output_final_state=False "
    "cu_seqlens=None use_qk_l2norm_in_kernel=False chunk_size=64 prefill_num_seqs=None "
    "prefill_seq_len=None neumann_iters=14",
    "hpu_chunk_gdr_phase_a": "qf kf vf bf g_cumsum seq_len chunk_size S num_chunks H Kdim Vdim "
    "neumann_iters",
    "hpu_chunk_gdr_phase_b": "u_all w_all q_chunks k_chunks g_chunks init_state scale S num_chunks "
    "seq_len H Kdim Vdim output_final_state output_dtype=None",
    "hpu_chunk_gdr_preprocess": "q k v g beta scale initial_state use_qk_l2norm_in_kernel chunk_size "
    "num_seqs seq_len",
    "hpu_fused_gdn_gating": "A_log a b dt_bias beta=1.0 threshold=20.0",
    "hpu_fused_recurrent_gated_delta_rule": "q k v g beta=None scale=None initial_state=None "
    "inplace_final_state=True cu_seqlens=None ssm_state_indices=None num_accepted_tokens=None "
    "use_qk_l2norm_in_kernel=False",
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_name_for_name_and_argument_for_argument(name):
    parameters = inspect.signature(getattr(module, name)).parameters.values()
    empty = inspect.Parameter.empty
    text = [p.name if p.default is empty else f"{p.name}={p.default}" for p in parameters]
    assert text == PARAMETERS[name].split()
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def test_there_is_a_logger():
    assert module.logger.name.endswith("hpu_gdn_pytorch")


@pytest.mark.parametrize(
    "environment,expected",
    [
        ({}, "torch.float32 False False"),
        ({"VLLM_GDN_COMPUTE_FP32": "0"}, "torch.bfloat16 False False"),
        ({"VLLM_GDN_EXACT_SOLVE": "1"}, "torch.float32 True False"),
        ({"VLLM_GDN_LEGACY_PHASE_B": "1"}, "torch.float32 False True"),
    ],
)
def test_switches_are_read_at_import(environment, expected):
    names = "_GDN_COMPUTE_DTYPE", "_USE_EXACT_SOLVE", "_USE_LEGACY_PHASE_B"
    code = (
        "import gdn.compat.hpu_gdn_pytorch as m; print(" + ", ".join(f"m.{n}" for n in names) + ")"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_GDN_")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == expected


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("buckets", [False, True])
def test_chunk_of_rows(route, monkeypatch, exact, legacy, buckets):
    monkeypatch.setattr(module, "_USE_EXACT_SOLVE", exact)
    monkeypatch.setattr(module, "_USE_LEGACY_PHASE_B", legacy)
    x = inputs.of_kind(1, B=2, T=130)
    sizes = {"prefill_num_seqs": 2, "prefill_seq_len": 130} if buckets else {}
    before = x.state.clone()
    out, state = module.hpu_chunk_gated_delta_rule(
        *x.tokens, initial_state=x.state, output_final_state=True, **sizes
    )
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    assert_close(out, expected)
    assert_close(state, last, state=True)
    assert torch.equal(x.state, before)


def test_chunk_takes_pieces_of_one_row_as_buckets_and_ignores_cu_seqlens(route):
    x = inputs.of_kind(2, B=1, T=120, N=3)
    out, state = module.hpu_chunk_gated_delta_rule(
        *x.tokens, initial_state=x.state, output_final_state=True, prefill_num_seqs=3,
        prefill_seq_len=40, cu_seqlens=torch.tensor([0, 7]), chunk_size=16,
    )  # fmt: skip
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE, torch.tensor([0, 40, 80, 120]))
    assert_close(out, expected)
    assert_close(state, last, state=True)


@pytest.mark.parametrize(
    "lengths,tail",
    [([100, 130], 0), ([0, 130, 100], 0), ([1, 63, 64, 65, 0], 7), ([0], 0), ([0], 3)],
)
@pytest.mark.parametrize("buckets", [{}, {"prefill_num_seqs": 0, "prefill_seq_len": 64}])
def test_chunk_of_unequal_lengths(route, lengths, tail, buckets):
    x = inputs.of_kind(3, T=sum(lengths) + tail, N=len(lengths))
    cu = torch.tensor([0, *lengths]).cumsum(0)
    out, state = module.hpu_chunk_gated_delta_rule(
        *x.tokens, initial_state=x.state, output_final_state=True, cu_seqlens=cu, **buckets
    )
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE, cu)
    assert_close(out, expected)
    assert_close(state, last, state=True)


def test_chunk_without_tokens(route):
    x = inputs.of_kind(4, B=2, T=0)
    for sizes in ({}, {"prefill_num_seqs": 2, "prefill_seq_len": 0}):
        out, state = module.hpu_chunk_gated_delta_rule(
            *x.tokens, initial_state=x.state, output_final_state=True, **sizes
        )
        assert out.shape == x.v.shape and torch.equal(state, x.state)


@pytest.mark.parametrize("state_dtype", [None, torch.float32, torch.bfloat16])
def test_dtypes_of_results(route, state_dtype):
    x = inputs.of_kind(5, T=70, dtype=torch.bfloat16, state_dtype=state_dtype or torch.float32)
    initial = x.state if state_dtype else None
    out, state = module.hpu_chunk_gated_delta_rule(
        x.q, x.k, x.v, x.g.bfloat16(), x.beta, initial_state=initial, output_final_state=True
    )
    assert out.dtype == torch.bfloat16 and state.dtype == (state_dtype or torch.float32)
    states = x.state if state_dtype else torch.zeros(1, 4, 64, 64)
    expected, last, _ = oracle.recurrence(x.q, x.k, x.v, x.g.bfloat16(), x.beta, states, SCALE)
    assert_close(out, expected)
    assert_close(state, last, state=True)
    assert module.hpu_chunk_gated_delta_rule(*x.tokens)[1] is None


def test_mixed_dtypes(route):
    x = inputs.of_kind(6, T=20)
    q, k = x.q.bfloat16(), x.k.half()
    out, _ = module.hpu_chunk_gated_delta_rule(q, k, x.v.double(), x.g.double(), x.beta)
    expected, _, _ = oracle.recurrence(q, k, x.v, x.g, x.beta, torch.zeros(1, 4, 64, 64), SCALE)
    assert out.dtype == torch.bfloat16
    assert_close(out, expected)


@pytest.mark.parametrize("buckets", [False, True])
def test_bfloat16_compute(route, monkeypatch, buckets):
    monkeypatch.setattr(module, "_GDN_COMPUTE_DTYPE", torch.bfloat16)
    x = inputs.of_kind(7, B=2, T=200, K=128, V=128, dtype=torch.bfloat16)
    sizes = {"prefill_num_seqs": 2, "prefill_seq_len": 200} if buckets else {}
    out, state = module.hpu_chunk_gated_delta_rule(
        *x.tokens, initial_state=x.state, output_final_state=True, **sizes
    )
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, 128**-0.5)
    compute = "bfloat16" if buckets else "float32"
    assert_close(out, expected, compute=compute)
    assert_close(state, last, compute=compute, state=True)


@pytest.mark.parametrize("kind", ["identical_keys", "g_-100", "g_-inf_once"])
def test_hard_inputs_with_the_exact_solve(route, monkeypatch, kind):
    monkeypatch.setattr(module, "_USE_EXACT_SOLVE", True)
    x = inputs.of_kind(8, T=200, kind=kind)
    out, state = module.hpu_chunk_gated_delta_rule(
        *x.tokens, initial_state=x.state, output_final_state=True, chunk_size=128
    )
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    assert_close(out, expected, hard=True)
    assert_close(state, last, hard=True, state=True)


def test_bucketed_chunk_is_one_graph(route):
    def call(q, k, v, g, beta, state):
        return module.hpu_chunk_gated_delta_rule(
            q, k, v, g, beta, initial_state=state, output_final_state=True, prefill_num_seqs=2,
            prefill_seq_len=20, chunk_size=16, use_qk_l2norm_in_kernel=True,
        )  # fmt: skip

    x = inputs.of_kind(9, B=2, T=20, K=16, V=8)
    got = torch.compile(call, fullgraph=True, backend="aot_eager")(*x.tokens, x.state)
    for a, b in zip(got, call(*x.tokens, x.state)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_decode_is_one_graph(route):
    def call(q, k, v, g, beta, pool, indices):
        pool = pool.clone()
        out, same = module.hpu_fused_recurrent_gated_delta_rule(
            q, k, v, g, beta, initial_state=pool, ssm_state_indices=indices
        )
        return out, same

    x = inputs.of_kind(9, B=3, T=1, N=5, K=16, V=8)
    arguments = (*x.tokens, x.state, torch.tensor([4, -1, 2]))
    got = torch.compile(call, fullgraph=True, backend="aot_eager")(*arguments)
    for a, b in zip(got, call(*arguments)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def f(*shape):
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    "options,text",
    [
        ({"chunk_size": 0}, "chunk_size must be > 0, got 0"),
        ({"neumann_iters": 0}, "neumann_iters must be > 0, got 0"),
        ({"cu_seqlens": torch.tensor([0, 4])}, "expected batch size B=1"),
        ({"v": f(2, 4, 3, 8)}, "Unsupported head mapping in hpu_chunk_gated_delta_rule"),
        (
            {"initial_state": f(3, 4, 8, 8)},
            "number of initial states is expected to equal the number of",
        ),
        (
            {"prefill_num_seqs": 3, "prefill_seq_len": 4},
            "gdn.hpu_chunk_gated_delta_rule: prefill_num_seqs * prefill_seq_len is 3 * 4, "
            "expected 8, the tokens of q",
        ),
    ],
)
def test_chunk_errors(route, options, text):
    x = inputs.of_kind(0, B=2, T=4, K=8, V=8)
    arguments = dict(zip("q k v g beta".split(), x.tokens)) | options
    with pytest.raises(ValueError) as caught:
        module.hpu_chunk_gated_delta_rule(**arguments)
    assert text in str(caught.value)


def decode(x, **options):
    return module.hpu_fused_recurrent_gated_delta_rule(*x.tokens, initial_state=x.state, **options)


def test_recurrent_updates_the_pool_in_place_and_returns_it(route):
    x = inputs.of_kind(10, B=3, T=1, N=6)
    before = x.state.clone()
    out, pool = decode(x, ssm_state_indices=torch.tensor([4, 0, 2], dtype=torch.int32))
    assert pool is x.state
    expected, last, _ = oracle.recurrence(*x.tokens, before[[4, 0, 2]], SCALE)
    assert_close(out, expected)
    assert_close(pool[[4, 0, 2]], last, state=True)
    assert torch.equal(pool[[1, 3, 5]], before[[1, 3, 5]])


def test_recurrent_out_of_place_leaves_the_pool(route):
    x = inputs.of_kind(11, B=2, T=3)
    before = x.state.clone()
    out, states = decode(x, inplace_final_state=False)
    expected, last, _ = oracle.recurrence(*x.tokens, before, SCALE)
    assert_close(out, expected)
    assert_close(states, last, state=True)
    assert torch.equal(x.state, before)


def test_recurrent_without_indices_uses_the_first_slots(route):
    x = inputs.of_kind(12, B=2, T=2, N=5)
    before = x.state.clone()
    out, pool = decode(x)
    expected, last, _ = oracle.recurrence(*x.tokens, before[:2], SCALE)
    assert_close(out, expected)
    assert_close(pool[:2], last, state=True)
    assert torch.equal(pool[2:], before[2:])


@pytest.mark.parametrize("indices", [None, [1, 0, -1]])
def test_recurrent_without_a_state_and_beta(route, indices):
    x = inputs.of_kind(13, B=3, T=2, kind="beta_1")
    given = None if indices is None else torch.tensor(indices)
    out, state = module.hpu_fused_recurrent_gated_delta_rule(
        x.q, x.k, x.v, x.g, ssm_state_indices=given
    )
    zero = torch.zeros(3, 4, 64, 64)
    expected, last, _ = oracle.recurrence(*x.tokens, zero, SCALE)
    if indices:
        expected[2] = 0
        last = torch.stack([last[1], last[0], zero[0].double()])
    assert_close(out, expected)
    assert_close(state, last, state=True)


def test_recurrent_reads_cu_seqlens_with_as_many_tokens_as_sequences(route):
    x = inputs.of_kind(14, T=3, N=3)
    before, cu = x.state.clone(), torch.tensor([0, 2, 2, 3])
    out, pool = decode(x, cu_seqlens=cu)
    expected, last, _ = oracle.recurrence(*x.tokens, before, SCALE, cu)
    assert_close(out, expected)
    assert_close(pool, last, state=True)


def test_lengths_end_with_the_tokens(route):
    x = inputs.of_kind(19, T=4, N=2)
    expected, _, _ = oracle.recurrence(*x.tokens, x.state, SCALE, torch.tensor([0, 2, 4]))
    cu = torch.tensor([0, 2, 9])
    out, _ = module.hpu_chunk_gated_delta_rule(*x.tokens, initial_state=x.state, cu_seqlens=cu)
    assert_close(out, expected)
    out, _ = decode(x, cu_seqlens=cu)
    assert_close(out, expected)


def test_recurrent_padding_and_missing_indices_are_zero_rows(route):
    x = inputs.of_kind(15, B=4, T=2, N=3)
    before = x.state.clone()
    out, pool = decode(x, ssm_state_indices=torch.tensor([-1, 2, -5]))
    expected, last, _ = oracle.recurrence(*x.tokens, before[[0, 2, 0, 0]], SCALE)
    assert (out[[0, 2, 3]] == 0).all()
    assert_close(out[1], expected[1])
    assert_close(pool[2], last[1], state=True)
    assert torch.equal(pool[:2], before[:2])


def test_recurrent_sequences_that_name_one_slot_run_one_after_the_other(route):
    x = inputs.of_kind(16, B=3, T=2, N=4)
    before = x.state.clone()
    out, pool = decode(x, ssm_state_indices=torch.tensor([1, 3, 1]))
    expected, last, _ = oracle.recurrence(*x.tokens, before[[1, 3, 1]], SCALE)
    y = inputs.DeltaRule(*(t[2:] for t in x.tokens), None, {})
    expected[2:], last[2:], _ = oracle.recurrence(*y.tokens, last[:1], SCALE)
    assert_close(out, expected)
    assert_close(pool[1], last[2], state=True)
    assert_close(pool[3], last[1], state=True)


def test_recurrent_speculative(route):
    x = inputs.of_kind(17, B=2, T=3, N=8)
    before, indices = x.state.clone(), torch.tensor([[7, 1, 2], [3, 5, 0]])
    out, pool = decode(x, ssm_state_indices=indices, num_accepted_tokens=torch.tensor([2, 3]))
    expected, _, after = oracle.recurrence(*x.tokens, before[[1, 0]], SCALE)
    assert_close(out, expected)
    for n in range(2):
        for t in range(3):
            assert_close(pool[indices[n, t]], after[n][t], state=True)
    out, _ = module.hpu_fused_recurrent_gated_delta_rule(
        *x.tokens, initial_state=before.clone(), ssm_state_indices=indices
    )
    expected, _, _ = oracle.recurrence(*x.tokens, before[[7, 3]], SCALE)
    assert_close(out, expected)


def test_recurrent_with_strided_and_turned_pools(route):
    x = inputs.of_kind(18, B=2, T=1, N=4)
    wide = torch.zeros(4, 2, 4, 64, 64)
    turned = x.state.transpose(2, 3).contiguous().transpose(2, 3)
    wide[:, 0] = x.state
    indices = torch.tensor([3, 1])
    results = []
    for pool in (wide[:, 0], turned, x.state):
        y = inputs.DeltaRule(*x.tokens, pool, {})
        out, same = decode(y, ssm_state_indices=indices)
        assert same is pool
        results.append((out, pool))
    for out, pool in results[:2]:
        torch.testing.assert_close(out, results[2][0], rtol=0, atol=0)
        torch.testing.assert_close(pool, results[2][1], rtol=0, atol=0)
    assert (wide[:, 1] == 0).all()


@pytest.mark.parametrize(
    "options,error,text",
    [
        ({"cu_seqlens": torch.tensor([0, 4])}, ValueError, "expected batch size B=1"),
        ({"v": f(2, 4, 3, 8)}, ValueError, "Unsupported head mapping in hpu_fused_recurrent_gated"),
        ({"ssm_state_indices": torch.tensor([0, 9])}, IndexError, "initial_state_indices[1] is 9"),
        ({"num_accepted_tokens": torch.tensor([1, 1])}, ValueError, "num_accepted_tokens is given"),
        ({"num_accepted_tokens": torch.tensor([1, 1]), "ssm_state_indices": torch.tensor([0, 1])},
         ValueError, "num_accepted_tokens is given"),
    ],
)  # fmt: skip
def test_recurrent_errors_and_nothing_is_written(route, options, error, text):
    x = inputs.of_kind(0, B=2, T=4, K=8, V=8)
    before = x.state.clone()
    arguments = dict(zip("q k v g beta".split(), x.tokens)) | {"initial_state": x.state} | options
    with pytest.raises(error) as caught:
        module.hpu_fused_recurrent_gated_delta_rule(**arguments)
    assert text in str(caught.value)
    assert torch.equal(x.state, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gating(route, dtype):
    r = torch.Generator().manual_seed(0)
    A_log, dt_bias = torch.randn(4, generator=r), torch.randn(4, generator=r)
    a, b = (torch.randn(9, 4, generator=r).to(dtype) * 10 for _ in range(2))
    g, beta = module.hpu_fused_gdn_gating(A_log, a, b, dt_bias, 0.5, 3.0)
    assert g.shape == beta.shape == (1, 9, 4)
    assert g.dtype == torch.float32 and beta.dtype == dtype
    expected_g, expected_beta = oracle.gates(A_log, a, dt_bias, b, 0.5, 3.0)
    assert_close(g[0], expected_g)
    assert_close(beta[0], expected_beta)
