"""The causal convolution with the signatures of the causal-conv1d package."""

from . import ops
from ._arguments import last_contiguous, require_tensors, unsupported


def is_silu(function, activation):
    if activation not in (None, "silu", "swish"):
        raise ValueError(
            f'gdn.{function}: activation is {activation!r}, expected None, "silu" or "swish"'
        )
    return activation is not None


def tokens_first(x):
    return last_contiguous(x.transpose(1, 2))


def causal_conv1d_fn(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    final_states_out=None,
    activation=None,
):
    """Depthwise causal convolution over whole sequences. y_t = activation(bias + sum over j < W of
    weight[:, j] * x_(t - W + 1 + j)), where the inputs before the first are initial_states, or
    zeros.

    Args:
        x: float [B,D,T]. Tokens that lie next to each other in memory ([B,T,D], transposed) are not
            copied.
        weight: float [D,W], W from 1 to 8.
        bias: float [D], or None.
        initial_states: float [B,D,S], S >= W - 1, the newest input last; or None.
        final_states_out: float [B,D,S], where to put the final states; or None.
        activation: None, "silu" or "swish".
        seq_idx: not supported; gdn.ops.causal_conv1d takes packed sequences by cu_seqlens.

    Returns:
        y [B,D,T], dtype of x; with return_final_states a pair of it and the final states [B,D,W-1]
        (float32 without initial states, else of their dtype), or final_states_out.

    Raises:
        TypeError: a dtype. ValueError: a shape, a device, an option. NotImplementedError: seq_idx.
    """
    unsupported("causal_conv1d_fn", seq_idx=seq_idx)
    require_tensors("causal_conv1d_fn", x=x)
    if x.dim() != 3:
        raise ValueError(f"gdn.causal_conv1d_fn: x has shape {list(x.shape)}, expected [B,D,T]")
    y, final_states = ops.causal_conv1d(
        tokens_first(x),
        weight,
        bias,
        initial_states,
        silu=is_silu("causal_conv1d_fn", activation),
        output_final_state=return_final_states,
    )
    y = y.transpose(1, 2)
    if not return_final_states:
        return y
    if final_states_out is None:
        return y, final_states
    final_states_out.copy_(final_states)
    return y, final_states_out


def causal_conv1d_update(
    x,
    conv_state,
    weight,
    bias=None,
    activation=None,
    cache_seqlens=None,
    conv_state_indices=None,
):
    """The same for one or a few tokens a sequence, with the states updated in place.

    Args:
        x: float [B,D], or [B,D,T].
        conv_state: float [B,D,S], or [slots,D,S] with conv_state_indices; S >= W - 1, the newest
            input last.
        weight, bias, activation: as in causal_conv1d_fn.
        conv_state_indices: int32 or int64 [B], the slot of each sequence, distinct; a negative one
            is padding, whose rows of y are zero. Or None.
        cache_seqlens: a circular state; not supported.

    Returns:
        y of the shape and dtype of x.

    Raises:
        TypeError: a dtype. ValueError: a shape, a device, an option. IndexError: a slot out of
            range.
        NotImplementedError: cache_seqlens. RuntimeError: a tensor requires a gradient.
    """
    unsupported("causal_conv1d_update", cache_seqlens=cache_seqlens)
    require_tensors("causal_conv1d_update", x=x)
    if x.dim() not in (2, 3):
        raise ValueError(
            f"gdn.causal_conv1d_update: x has shape {list(x.shape)}, expected [B,D] or [B,D,T]"
        )
    y = ops.causal_conv1d_(
        last_contiguous(x.unsqueeze(1)) if x.dim() == 2 else tokens_first(x),
        weight,
        bias,
        conv_state,
        silu=is_silu("causal_conv1d_update", activation),
        initial_state_indices=conv_state_indices,
    )
    return y.squeeze(1) if x.dim() == 2 else y.transpose(1, 2)
