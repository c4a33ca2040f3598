"""States in a pool: which slots are read, which written, and that no other is touched."""

import inputs
import oracle
import pytest
import torch
from gdn import staged
from tolerance import assert_close

SCALE = 32**-0.5
EACH = pytest.mark.parametrize("operator", ["chunk_", "recurrent_"])


def make(lengths, seed=0, slots=9, dtype=torch.float32, layout="vk"):
    x = inputs.of_kind(seed, T=sum(lengths), N=slots, K=32, V=16, state_dtype=dtype)
    # Two slots' room a slot: a pool with strides.
    shape = (slots, 2, 4, 16, 32) if layout == "vk" else (slots, 2, 4, 32, 16)
    memory = torch.full(shape, torch.nan, dtype=dtype)
    pool = memory[:, 0]
    pool.copy_(x.state if layout == "vk" else x.state.mT)
    return x, pool, torch.tensor([0, *lengths]).cumsum(0)


def run(operator, x, pool, cu, **options):
    options = {"state_layout": "vk", **options}
    return getattr(staged, operator)(*x.tokens, pool, cu_seqlens=cu, **options)


def expect(x, cu, read):
    """read: the slot of each sequence, None: zero."""
    states = torch.stack(
        [torch.zeros(4, 16, 32) if slot is None else x.state[slot] for slot in read]
    )
    return oracle.recurrence(*x.tokens, states, SCALE, cu)


def check_pool(x, pool, written):
    """written: slot to expected state."""
    for slot in range(pool.shape[0]):
        if slot in written:
            assert_close(pool[slot], written[slot], f"slot {slot}", state=True)
        else:
            assert torch.equal(pool[slot], x.state[slot]), f"slot {slot} was touched"


@EACH
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_named_slots_alone_are_written(operator, index_dtype, dtype):
    x, pool, cu = make([3, 70, 1], dtype=dtype)
    out = run(
        operator, x, pool, cu, initial_state_indices=torch.tensor([7, 2, 0], dtype=index_dtype)
    )
    expected, last, _ = expect(x, cu, [7, 2, 0])
    assert_close(out, expected)
    check_pool(x, pool, {7: last[0], 2: last[1], 0: last[2]})


@EACH
def test_read_and_written_slots_differ(operator):
    x, pool, cu = make([3, 5])
    out = run(
        operator, x, pool, cu,
        initial_state_indices=torch.tensor([4, 4]), final_state_indices=torch.tensor([1, 8]),
    )  # fmt: skip
    expected, last, _ = expect(x, cu, [4, 4])
    assert_close(out, expected)
    check_pool(x, pool, {1: last[0], 8: last[1]})


@EACH
@pytest.mark.parametrize("padding", [-1, -7, 3])
def test_padding_skips_the_row_and_touches_nothing(operator, padding):
    x, pool, cu = make([3, 5, 2])
    out = run(
        operator,
        x,
        pool,
        cu,
        initial_state_indices=torch.tensor([padding, 6, padding]),
        null_slot=3,
    )
    expected, last, _ = expect(x, cu, [0, 6, 0])
    assert (out[:, :3] == 0).all() and (out[:, 8:] == 0).all()
    assert_close(out[:, 3:8], expected[:, 3:8])
    check_pool(x, pool, {6: last[1]})


@EACH
def test_padding_of_every_row(operator):
    x, pool, cu = make([3, 5])
    out = run(operator, x, pool, cu, initial_state_indices=torch.tensor([-1, -1]))
    assert (out == 0).all()
    check_pool(x, pool, {})


@EACH
def test_write_padding_drops_that_state_only(operator):
    x, pool, cu = make([3, 5])
    out = run(
        operator, x, pool, cu,
        initial_state_indices=torch.tensor([4, 2]), final_state_indices=torch.tensor([-1, 2]),
    )  # fmt: skip
    expected, last, _ = expect(x, cu, [4, 2])
    assert_close(out, expected)
    check_pool(x, pool, {2: last[1]})


@EACH
def test_has_initial_state_false_never_reads_the_slot(operator):
    x, pool, cu = make([3, 5])
    pool[4] = torch.nan
    out = run(
        operator, x, pool, cu,
        initial_state_indices=torch.tensor([4, 2]), has_initial_state=torch.tensor([False, True]),
    )  # fmt: skip
    expected, last, _ = expect(x, cu, [None, 2])
    assert_close(out, expected)
    check_pool(x, pool, {4: last[0], 2: last[1]})


@EACH
def test_without_indices_slot_n_is_sequence_n(operator):
    x, pool, cu = make([3, 5], slots=2)
    out = run(operator, x, pool, cu)
    expected, last, _ = expect(x, cu, [0, 1])
    assert_close(out, expected)
    check_pool(x, pool, {0: last[0], 1: last[1]})


@EACH
def test_a_state_after_every_token(operator):
    x, pool, cu = make([3, 1, 0])
    indices = torch.tensor([[8, 3, 5], [1, 0, 0], [2, 2, 2]])
    out = run(
        operator, x, pool, cu,
        initial_state_indices=torch.tensor([8, 4, 6]), final_state_indices=indices,
    )  # fmt: skip
    expected, _, after = expect(x, cu, [8, 4, 6])
    assert_close(out, expected)
    check_pool(x, pool, {8: after[0][0], 3: after[0][1], 5: after[0][2], 1: after[1][0]})


@EACH
@pytest.mark.parametrize("max_length", [None, 4])
def test_verify_reads_the_accepted_column(operator, max_length):
    x, pool, cu = make([2, 3])
    indices = torch.tensor([[8, 3, 5], [1, -1, 4]])
    out = run(
        operator, x, pool, cu, initial_state_indices=indices,
        num_accepted=torch.tensor([2, 3]), max_length=max_length if operator == "recurrent_" else None,
    )  # fmt: skip
    expected, _, after = expect(x, cu, [3, 4])
    assert_close(out, expected)
    check_pool(x, pool, {8: after[0][0], 3: after[0][1], 1: after[1][0], 4: after[1][2]})


@EACH
def test_a_state_after_every_token_over_several_chunks(operator):
    x, pool, cu = make([5, 7], slots=14)
    indices = torch.arange(14).reshape(2, 7)
    options = {"chunk_size": 3} if operator == "chunk_" else {}
    run(
        operator, x, pool, cu, initial_state_indices=torch.tensor([0, 7]),
        final_state_indices=indices, **options,
    )  # fmt: skip
    _, _, after = expect(x, cu, [0, 7])
    written = {t: after[0][t] for t in range(5)} | {7 + t: after[1][t] for t in range(7)}
    check_pool(x, pool, written)


@EACH
def test_kv_layout(operator):
    x, pool, cu = make([3, 5], layout="kv")
    out = run(operator, x, pool, cu, state_layout="kv", initial_state_indices=torch.tensor([4, 2]))
    expected, last, _ = expect(x, cu, [4, 2])
    assert_close(out, expected)
    check_pool(x, pool.mT, {4: last[0], 2: last[1]})


@pytest.mark.parametrize("operator", ["chunk", "recurrent"])
def test_functional_form_reads_slots_and_writes_none(operator):
    x, pool, cu = make([3, 5, 2])
    before = pool.clone()
    out, state = getattr(staged, operator)(
        *x.tokens, pool, cu_seqlens=cu, state_layout="vk", output_final_state=True,
        initial_state_indices=torch.tensor([7, 0, 5]), null_slot=0,
        has_initial_state=torch.tensor([True, True, False]),
    )  # fmt: skip
    expected, last, _ = expect(x, cu, [7, 0, None])
    expected[:, 3:8], last[1] = 0, 0
    assert_close(out, expected)
    assert_close(state, last, state=True)
    assert torch.equal(pool, before)
