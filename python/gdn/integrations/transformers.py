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

import weakref

import torch

from . import _transformers_functions as _functions

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
        TypeError: model is no module. ValueError: it has no such layer. ImportError: the installed transformers and kernels
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
                layer.register_forward_pre_hook(_functions.enter),
                layer.register_forward_hook(_functions.leave, always_call=True),
            )
    return model


def disable(model):
    """Undoes enable(). A model that was not enabled stays as it is.

    Returns:
        model.

    Raises:
        TypeError: model is no module. ValueError: it has no Gated DeltaNet layer.
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


class _Substitute:
    """What a mapping of kernels holds: an object whose load() gives the class."""

    def __init__(self, layer):
        self.layer = layer

    def load(self):
        return self.layer


_SUBSTITUTES = {
    "chunk_gated_delta_rule": _Substitute(_functions.ChunkGatedDeltaRule),
    "fused_recurrent_gated_delta_rule": _Substitute(_functions.FusedRecurrentGatedDeltaRule),
    "causal_conv1d_fn": _Substitute(_functions.CausalConv1dFn),
    "causal_conv1d_update": _Substitute(_functions.CausalConv1dUpdate),
    "RMSNormGated": _Substitute(_functions.RMSNormGated),
}
_MARKED = _SUBSTITUTES.keys() - {"RMSNormGated"}


def _substitute(kernels, layer, substitutes):
    """Lets kernels put the substitutes into a layer; without one, what was there before."""
    # kernels resets everything below the module it is given that the mapping does not name: the
    # layer's own forward, which accelerate may have wrapped, or a kernel that the user has chosen.
    # So it is given what is ours alone.
    parts = torch.nn.Module()
    parts._kernel_funcs = layer._kernel_funcs
    norm = layer.norm
    if getattr(norm.forward, "__func__", None) in (
        type(norm).forward,
        _functions.RMSNormGated.forward,
    ):
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
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"gdn.integrations.transformers.{function}: model is a {type(model).__name__}, "
            "expected a torch.nn.Module"
        )
    layers = [
        m for m in model.modules() if any(base.__name__ in _LAYERS for base in type(m).__mro__)
    ]
    if not layers:
        raise ValueError(
            f"gdn.integrations.transformers.{function}: {type(model).__name__} has no Gated "
            "DeltaNet layer, expected a Qwen3.5 or Qwen3-Next model"
        )
    return layers


def _kernels_package(layers):
    try:
        import kernels
    except ImportError as error:
        raise _do_not_fit("kernels is not installed") from error
    for layer in layers:
        if not _MARKED <= getattr(layer, "_kernel_funcs", {}).keys():
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
