"""staged.recurrent against the token recurrence in float64."""

import inputs
import oracle
import pytest
import torch
from gdn import staged
from tolerance import assert_close

SCALE = 64**-0.5


def run(x, **options):
    options = {"state_layout": "vk", "output_final_state": True, **options}
    return staged.recurrent(*x.tokens, options.pop("initial_state", x.state), **options)


@pytest.mark.parametrize("kind", ["usual", *inputs.HARD])
def test_within_the_bounds_of_float32(kind):
    x = inputs.of_kind(1, T=150, kind=kind, K=64, V=48)
    out, state = run(x)
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    assert_close(out, expected, kind, hard=kind != "usual")
    assert_close(state, last, kind, hard=kind != "usual", state=True)


def test_one_token_a_sequence_in_16_bit():
    x = inputs.of_kind(2, B=5, T=1, dtype=torch.bfloat16, state_dtype=torch.bfloat16)
    out, state = run(x)
    expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE)
    assert_close(out, expected)
    assert_close(state, last, state=True)


@pytest.mark.parametrize("lengths", [[1, 1, 1], [0, 3, 0], [2, 0, 1], [3, 0, 0], [0, 0]])
def test_cu_seqlens_is_read_even_with_as_many_tokens_as_sequences(lengths):
    x = inputs.of_kind(3, T=3, N=len(lengths))
    cu = torch.tensor([0, *lengths]).cumsum(0)
    for max_length in (None, 3):
        out, state = run(x, cu_seqlens=cu, max_length=max_length)
        expected, last, _ = oracle.recurrence(*x.tokens, x.state, SCALE, cu)
        assert_close(out, expected)
        assert_close(state, last, state=True)


def test_tokens_in_one_call_or_one_a_call():
    x = inputs.of_kind(4, B=2, T=5)
    out, state = run(x)
    s, outs = x.state, []
    for t in range(5):
        o, s = staged.recurrent(
            *(y[:, t : t + 1] for y in x.tokens), s, state_layout="vk", output_final_state=True
        )
        outs.append(o)
    assert torch.equal(out, torch.cat(outs, 1)) and torch.equal(state, s)


def test_layouts_are_transposes():
    x = inputs.of_kind(5, T=3, K=32, V=16)
    out, state = run(x)
    other, turned = run(x, state_layout="kv", initial_state=x.state.mT.contiguous())
    assert torch.equal(out, other) and torch.equal(state, turned.mT)


def test_no_tokens_hand_the_state_through_as_a_copy():
    x = inputs.of_kind(6, B=2, T=0)
    out, state = run(x)
    assert out.shape == (2, 0, 4, 64) and torch.equal(state, x.state)
    assert state.data_ptr() != x.state.data_ptr()


def test_l2norm_inside_scale_and_no_state():
    x = inputs.of_kind(7, T=4)
    x.q, x.k = x.q * 3, x.k * 0.2
    out, state = run(x, initial_state=None, use_qk_l2norm=True, scale=0.5)
    zero = torch.zeros(1, 4, 64, 64)
    expected, last, _ = oracle.recurrence(*x.tokens, zero, 0.5, use_qk_l2norm=True)
    assert_close(out, expected)
    assert_close(state, last, state=True)
