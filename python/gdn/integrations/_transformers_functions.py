"""What runs in place of the functions of a Gated DeltaNet layer that transformers lets replace."""

import threading
import warnings

import torch

import gdn
from gdn.causal_conv1d import is_silu, tokens_first


class _Now(threading.local):
    """Whether this thread is in a layer of an enabled model that does not train."""

    inside = False


_now = _Now()


def enter(layer, args):
    _now.inside = not layer.training


def leave(layer, args, output):
    _now.inside = False


def _is_ours(*tensors):
    if not _now.inside:
        return False
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    ):
        if not torch.compiler.is_compiling():
            # Said once: Python shows a warning once for each place.
            warnings.warn(
                "gdn.integrations.transformers: gradients are wanted, so transformers' own code "
                "runs; call the model under torch.no_grad() for gdn's"
            )
        return False
    return True


# What kernels puts in place of a module's forward: a class without state whose forward has the
# parameters of the one that it replaces. `self` is the module, and type(self).forward the code that
# was there before.


class ChunkGatedDeltaRule(torch.nn.Module):
    can_torch_compile = True
    has_backward = False

    def forward(
        self,
        query,
        key,
        value,
        g,
        beta,
        chunk_size=64,
        initial_state=None,
        output_final_state=False,
        use_qk_l2norm_in_kernel=False,
        **kwargs,
    ):
        if not _is_ours(query, key, value, g, beta, initial_state):
            return type(self).forward(
                self,
                query,
                key,
                value,
                g,
                beta,
                chunk_size=chunk_size,
                initial_state=initial_state,
                output_final_state=output_final_state,
                use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
                **kwargs,
            )
        return gdn.chunk_gated_delta_rule(
            query,
            key,
            value,
            g,
            beta,
            initial_state=initial_state,
            output_final_state=output_final_state,
            use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
            cu_seqlens=kwargs.get("cu_seqlens"),
            chunk_size=chunk_size,
        )


class FusedRecurrentGatedDeltaRule(torch.nn.Module):
    can_torch_compile = True
    has_backward = False

    def forward(
        self,
        query,
        key,
        value,
        g,
        beta,
        initial_state=None,
        output_final_state=False,
        use_qk_l2norm_in_kernel=False,
        **kwargs,
    ):
        if not _is_ours(query, key, value, g, beta, initial_state):
            return type(self).forward(
                self,
                query,
                key,
                value,
                g,
                beta,
                initial_state=initial_state,
                output_final_state=output_final_state,
                use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
                **kwargs,
            )
        return gdn.fused_recurrent_gated_delta_rule(
            query,
            key,
            value,
            g=g,
            beta=beta,
            initial_state=initial_state,
            output_final_state=output_final_state,
            use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
            cu_seqlens=kwargs.get("cu_seqlens"),
        )


class CausalConv1dFn(torch.nn.Module):
    can_torch_compile = True
    has_backward = False

    def forward(self, hidden_states, weight, bias=None, activation=None, **kwargs):
        if not _is_ours(hidden_states, weight, bias):
            return type(self).forward(
                self, hidden_states, weight, bias, activation=activation, **kwargs
            )
        # Of packed sequences transformers' own code wants seq_idx here and cu_seq_lens_q for the
        # delta rule, which says it too.
        cu_seqlens = kwargs.get("cu_seq_lens_q")
        if cu_seqlens is None:
            return gdn.causal_conv1d_fn(
                hidden_states, weight, bias, seq_idx=kwargs.get("seq_idx"), activation=activation
            )
        return _packed_conv(hidden_states, weight, bias, activation, cu_seqlens)


def _packed_conv(x, weight, bias, activation, cu_seqlens):
    # A cache puts its inputs before those of the pack, and has them of one sequence only. To see
    # that, the host waits for cu_seqlens here.
    if not torch.compiler.is_compiling() and int(cu_seqlens[-1]) != x.shape[2]:
        raise ValueError(
            f"gdn.integrations.transformers: packed sequences have {int(cu_seqlens[-1])} tokens, "
            f"expected {x.shape[2]}: a cache holds no packs; call the model with use_cache=False"
        )
    y, _ = gdn.ops.causal_conv1d(
        tokens_first(x),
        weight,
        bias,
        silu=is_silu("causal_conv1d_fn", activation),
        cu_seqlens=cu_seqlens,
    )
    return y.transpose(1, 2)


class CausalConv1dUpdate(torch.nn.Module):
    can_torch_compile = True
    has_backward = False

    def forward(self, hidden_states, conv_state, weight, bias=None, activation=None):
        if not _is_ours(hidden_states, conv_state, weight, bias):
            return type(self).forward(self, hidden_states, conv_state, weight, bias, activation)
        return gdn.causal_conv1d_update(hidden_states, conv_state, weight, bias, activation)


class RMSNormGated(torch.nn.Module):
    can_torch_compile = True
    has_backward = False

    def forward(self, hidden_states, gate):
        if not _is_ours(hidden_states, gate, self.weight):
            return type(self).forward(self, hidden_states, gate)
        return gdn.rms_norm_gated(hidden_states, gate, self.weight, eps=self.variance_epsilon)
