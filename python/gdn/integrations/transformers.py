"""The operators in Hugging Face's Qwen3.5 and Qwen3-Next models.

    from gdn.integrations.transformers import enable

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    enable(model)

transformers marks the functions of a Gated DeltaNet layer so that the kernels package can put
others in their place; what is put there is given by a mapping, and need not come from the Hub.
Nothing of transformers is changed, and nothing is fetched.

Those functions are one for all models of a kind. Hooks on the layers of an enabled model therefore
say when ours are meant; at any other time they run the code that they stand in for.
"""

import threading
import warnings
import weakref

import torch

import gdn
from gdn.causal_conv1d import is_silu, tokens_first

_PAIR = "transformers 5.22 and kernels 0.17.2"

_LAYERS = ("Qwen3_5GatedDeltaNet", "Qwen3_5MoeGatedDeltaNet", "Qwen3NextGatedDeltaNet")


def enable(model):
    """Makes the Gated DeltaNet layers of a model compute with gdn: delta rule, convolution and
    gated norm.

    Layers compute as before while they train (`model.train()`), and wherever a gradient is wanted:
    call the model under torch.no_grad() or torch.inference_mode(), as generate() does. Other models
    are as they were, of the same kind too; a copy of an enabled model wants a call of its own. On a
    device for which gdn has no kernel its pipeline of tensor operations runs. Calling this again
    changes nothing.

    Args:
        model: a Qwen3.5, Qwen3.5 MoE or Qwen3-Next model of transformers, or any module with such
        layers in it.

    Returns:
        model.

    Raises:
        ValueError: the model has no such layer. ImportError: the installed transformers and kernels
        do not fit; the message names versions that do.
    """
    layers = _layers_of(model, "enable")
    kernels = _kernels_package(layers)
    try:
        for layer in layers:
            _substitute(kernels, layer, _SUBSTITUTES)
    except ImportError:
        _restore(kernels, [layer for layer in layers if layer not in _enabled])
        raise
    for layer in layers:
        _enabled.add(layer)
        if not hasattr(layer, "gdn_hooks"):
            layer.gdn_hooks = (
                layer.register_forward_pre_hook(_enter),
                layer.register_forward_hook(_leave, always_call=True),
            )
    return model


def disable(model):
    """Undoes enable(). A model that was not enabled stays as it is.

    Returns:
        model.

    Raises:
        ValueError: the model has no Gated DeltaNet layer.
    """
    layers = _layers_of(model, "disable")
    enabled = [layer for layer in layers if hasattr(layer, "gdn_hooks")]
    for layer in enabled:
        for hook in layer.gdn_hooks:
            hook.remove()
        del layer.gdn_hooks
        _enabled.discard(layer)
    if enabled:
        _restore(_kernels_package(enabled), enabled)
    return model


_enabled = weakref.WeakSet()  # layers


class _Now(threading.local):
    """Whether this thread is in a layer of an enabled model that does not train."""

    inside = False


_now = _Now()


def _enter(layer, args):
    _now.inside = not layer.training


def _leave(layer, args, output):
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


class _ChunkGatedDeltaRule(torch.nn.Module):
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


class _FusedRecurrentGatedDeltaRule(torch.nn.Module):
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


class _CausalConv1dFn(torch.nn.Module):
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


class _CausalConv1dUpdate(torch.nn.Module):
    can_torch_compile = True
    has_backward = False

    def forward(self, hidden_states, conv_state, weight, bias=None, activation=None):
        if not _is_ours(hidden_states, conv_state, weight, bias):
            return type(self).forward(self, hidden_states, conv_state, weight, bias, activation)
        return gdn.causal_conv1d_update(hidden_states, conv_state, weight, bias, activation)


class _RMSNormGated(torch.nn.Module):
    can_torch_compile = True
    has_backward = False

    def forward(self, hidden_states, gate):
        if not _is_ours(hidden_states, gate, self.weight):
            return type(self).forward(self, hidden_states, gate)
        return gdn.rms_norm_gated(hidden_states, gate, self.weight, eps=self.variance_epsilon)


class _Substitute:
    """What a mapping of kernels holds: an object whose load() gives the class."""

    def __init__(self, layer):
        self.layer = layer

    def load(self):
        return self.layer


_SUBSTITUTES = {
    "chunk_gated_delta_rule": _Substitute(_ChunkGatedDeltaRule),
    "fused_recurrent_gated_delta_rule": _Substitute(_FusedRecurrentGatedDeltaRule),
    "causal_conv1d_fn": _Substitute(_CausalConv1dFn),
    "causal_conv1d_update": _Substitute(_CausalConv1dUpdate),
    "RMSNormGated": _Substitute(_RMSNormGated),
}
_FUNCTIONS = _SUBSTITUTES.keys() - {"RMSNormGated"}


def _substitute(kernels, layer, substitutes):
    """Lets kernels put the substitutes into a layer; without one, what was there before."""
    # kernels resets everything below the module it is given that the mapping does not name: the
    # layer's own forward, which accelerate may have wrapped, or a kernel that the user has chosen.
    # So it is given what is ours alone.
    parts = torch.nn.Module()
    parts._kernel_funcs = layer._kernel_funcs
    norm = layer.norm
    if getattr(norm.forward, "__func__", None) in (type(norm).forward, _RMSNormGated.forward):
        parts.norm = norm
    # The key of the device is no more than a name here: the functions go where their tensors are,
    # at each call.
    mapping = {name: {} for name in _SUBSTITUTES} | {
        name: {"cpu": found} for name, found in substitutes.items()
    }
    try:
        with kernels.use_kernel_mapping(mapping, inherit_mapping=False):
            kernels.kernelize(parts, mode=kernels.Mode.INFERENCE, device="cpu")
    except TypeError as error:  # parameters differ
        raise _do_not_fit(str(error)) from error


def _restore(kernels, layers):
    """Puts back what was there in layers that are not enabled."""
    for layer in layers:
        _substitute(kernels, layer, {})
    for layer in _enabled:  # the functions are theirs too
        _substitute(kernels, layer, _SUBSTITUTES)


def _layers_of(model, function):
    layers = [
        m for m in model.modules() if any(base.__name__ in _LAYERS for base in type(m).__mro__)
    ]
    if not layers:
        raise ValueError(
            f"gdn.integrations.transformers.{function}: {type(model).__name__} has no Gated DeltaNet "
            "layer, expected a Qwen3.5 or Qwen3-Next model"
        )
    return layers


def _kernels_package(layers):
    try:
        import kernels
    except ImportError as error:
        raise _do_not_fit("kernels is not installed") from error
    for layer in layers:
        if not _FUNCTIONS <= getattr(layer, "_kernel_funcs", {}).keys():
            raise _do_not_fit(f"{type(layer).__name__} does not let kernels replace its functions")
        if getattr(type(layer.norm), "kernel_layer_name", None) != "RMSNormGated":
            raise _do_not_fit(f"{type(layer.norm).__name__} does not let kernels replace it")
    return kernels


def _do_not_fit(why):
    import importlib.metadata

    def version(package):
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            return f"no {package}"

    return ImportError(
        f"gdn.integrations.transformers: found {version('transformers')} and "
        f'{version("kernels")}, expected {_PAIR} (pip install "gdn[transformers]"), without '
        f"USE_HUB_KERNELS=0 in the environment: {why}"
    )
