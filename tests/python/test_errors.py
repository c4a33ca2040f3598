"""Wrong arguments: the core's message, as RuntimeError from torch.ops.gdn and as the exception that
a Python programmer expects from a function; nothing written, no crash."""

import inputs
import pytest
import torch

import gdn
from gdn._errors import translated


def wrong(exception, message):
    """A case: a change of the arguments of recurrent_, which exception it brings, and with which
    message."""

    def decorate(change):
        CASES[change.__name__] = (change, exception, message)
        return change

    return decorate


CASES = {}


@wrong(TypeError, "gdn.recurrent: k has dtype float64, expected float32, the dtype of q")
def float64(c):
    c.k = c.k.double()


@wrong(
    TypeError, "gdn.recurrent: q has dtype of another kind, expected float32, bfloat16 or float16"
)
def complex64(c):
    c.q = c.q.to(torch.complex64)


@wrong(TypeError, "gdn.recurrent: initial_state_indices has dtype int16, expected int32 or int64")
def int16_slots(c):
    c.options["initial_state_indices"] = torch.tensor([0, 1], dtype=torch.int16)


@wrong(TypeError, "Expected a value of type")
def a_list(c):
    c.k = [1.0]


@wrong(ValueError, r"gdn.recurrent: beta has shape \[2,70,3\], expected \[2,70,4\]")
def shape(c):
    c.beta = c.beta[..., :3]


@wrong(ValueError, r"gdn.recurrent: q has shape of more than 6 axes, expected \[B,T,H,K\]")
def seven_axes(c):
    c.q = c.q[None, None, None]


@wrong(ValueError, r"gdn.recurrent: q has shape \[\], expected \[B,T,H,K\]")
def a_scalar(c):
    c.q = torch.tensor(1.0)


@wrong(ValueError, "gdn.recurrent: v has strides .* expected a contiguous last axis")
def strides(c):
    c.v = c.v.transpose(2, 3).contiguous().transpose(2, 3)


@wrong(ValueError, 'gdn.recurrent: state_layout is "vv", expected "vk" or "kv"')
def layout(c):
    c.options["state_layout"] = "vv"


@wrong(ValueError, 'gdn.recurrent: compute is "half", expected "auto", "float32" or "bfloat16"')
def compute(c):
    c.options["compute"] = "half"


@wrong(ValueError, "gdn.recurrent: scale is nan")
def scale(c):
    c.options["scale"] = float("nan")


@wrong(ValueError, "gdn.recurrent: g is absent, expected g, or A_log and a")
def no_gate(c):
    c.g = None


@wrong(IndexError, r"gdn.recurrent: cu_seqlens\[1\] is 71, expected at most T = 70")
def cu_seqlens(c):
    for name in ("q", "k", "v", "g", "beta"):
        setattr(c, name, getattr(c, name)[:1])
    c.options["cu_seqlens"] = torch.tensor([0, 71])


@wrong(IndexError, r"gdn.recurrent: initial_state_indices\[1\] is 2")
def slot(c):
    c.options["initial_state_indices"] = torch.tensor([0, 2])


@wrong(
    IndexError,
    r"gdn.recurrent: initial_state_indices\[1\] is 1 as is initial_state_indices\[0\]",
)
def slot_twice(c):
    c.options["initial_state_indices"] = torch.tensor([1, 1])


@wrong(ValueError, "gdn.recurrent_?: v is on meta, expected cpu")
def device(c):
    c.v = c.v.to("meta")


@pytest.mark.parametrize("case", CASES)
def test_wrong_arguments(case):
    change, exception, message = CASES[case]
    call = inputs.delta_rule()
    change(call)
    before = call.state.clone()
    with pytest.raises(RuntimeError, match=message) as from_operator:
        torch.ops.gdn.recurrent_(*call.tokens, call.state, **call.options)
    with pytest.raises(exception, match=message) as from_function:
        gdn.ops.recurrent_(*call.tokens, call.state, **call.options)
    assert str(from_function.value) == str(from_operator.value)
    assert torch.equal(call.state, before)


@pytest.mark.parametrize("function", ["ops.chunk", "ops.chunk_", "chunk_gated_delta_rule"])
def test_a_context_split_of_no_name(function):
    call = inputs.delta_rule()
    before = call.state.clone()
    message = 'gdn.chunk: context_split is "on", expected "auto", "fixed" or "off"'
    if function == "chunk_gated_delta_rule":
        with pytest.raises(ValueError) as error:
            gdn.chunk_gated_delta_rule(*call.tokens, context_split="on")
        assert str(error.value) == message
        return
    name = function.removeprefix("ops.")
    for module, exception in ((torch.ops.gdn, RuntimeError), (gdn.ops, ValueError)):
        with pytest.raises(exception) as error:
            getattr(module, name)(*call.tokens, call.state, context_split="on", **call.options)
        assert str(error.value) == message
    assert torch.equal(call.state, before)


def test_the_first_argument_is_no_tensor():
    with pytest.raises(TypeError, match="expected a tensor"):
        gdn.ops.l2norm(1.0)


def test_a_device_that_no_operator_knows_is_named():
    sparse = torch.eye(4).to_sparse()
    with pytest.raises(NotImplementedError, match="SparseCPU"):
        torch.ops.gdn.l2norm(sparse)


def test_tensors_on_two_devices_of_which_one_has_no_kernel():
    """Such a device is not at hand, so the error is not PyTorch's own."""
    x, y = torch.zeros(3), torch.zeros(3, device="meta")
    schema = torch.ops.gdn.rms_norm_gated.default._schema
    found = translated(NotImplementedError("Could not run"), schema, (x, x, y), {})
    assert isinstance(found, ValueError)
    assert str(found) == "gdn.rms_norm_gated: weight is on meta, expected cpu, where x is"
    error = NotImplementedError("Could not run")
    assert translated(error, schema, (x, x, x), {}) is error


def test_every_message_is_free_of_files_and_stacks():
    """The text of the core, and nothing that PyTorch adds."""
    with pytest.raises(RuntimeError) as error:
        torch.ops.gdn.l2norm(torch.zeros(3), eps=-1.0)
    assert str(error.value) == "gdn.l2norm: eps is -1, expected a finite float32 of at least 0"


def test_no_memory():
    huge = torch.zeros(1).expand(2**44, 1)
    with pytest.raises(
        MemoryError, match="gdn: could not allocate a tensor of 17592186044416 elements"
    ):
        gdn.l2norm(huge)


def test_mistakes_leak_nothing():
    resource = pytest.importorskip("resource")
    x, option = torch.zeros(2, 3, 2, 8), torch.zeros(2, 3, 2)

    def peak(calls):
        for _ in range(calls):
            with pytest.raises(RuntimeError):
                torch.ops.gdn.chunk(x, x, x.double(), option, option, x, state_layout="vk")
            with pytest.raises(RuntimeError):
                torch.ops.gdn.chunk(x, x, x, option, option, x, state_layout="vv")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = peak(2000)
    assert peak(20000) - before <= 512  # kB: a leak of thirty bytes a mistake is more


UNSUPPORTED = {
    "cp_context": lambda q, g: gdn.chunk_gated_delta_rule(q, q, q, g, g, cp_context=object()),
    "gk": lambda q, g: gdn.fused_recurrent_gated_delta_rule(q, q, q, g, gk=q),
    "gv": lambda q, g: gdn.fused_recurrent_gated_delta_rule(q, q, q, g, gv=q),
    "bias": lambda q, g: gdn.rms_norm_gated(q, q, q[0, 0, 0], q[0, 0, 0]),
    "residual": lambda q, g: gdn.rms_norm_gated(q, q, q[0, 0, 0], residual=q),
    "prenorm": lambda q, g: gdn.rms_norm_gated(q, q, q[0, 0, 0], prenorm=True),
    "seq_idx": lambda q, g: gdn.causal_conv1d_fn(g, torch.zeros(3, 4), seq_idx=g),
    "cache_seqlens": lambda q, g: gdn.causal_conv1d_update(
        g, g, torch.zeros(3, 4), cache_seqlens=g
    ),
}


@pytest.mark.parametrize("argument", UNSUPPORTED)
def test_what_is_not_supported_raises_by_name(argument):
    with pytest.raises(NotImplementedError, match=f"{argument} is given, which is not supported"):
        UNSUPPORTED[argument](torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 4))


@pytest.mark.parametrize(
    "function", [gdn.chunk_gated_delta_rule, gdn.fused_recurrent_gated_delta_rule]
)
def test_options_that_belong_together(function):
    call = inputs.delta_rule()
    with pytest.raises(ValueError, match="use_beta_sigmoid_in_kernel"):
        function(call.q, call.k, call.v, g=call.g, beta=call.beta, allow_neg_eigval=True)
    with pytest.raises(ValueError, match="A_log is absent, expected it with use_gate_in"):
        function(call.q, call.k, call.v, g=call.g, beta=call.beta, use_gate_in_kernel=True)
    for name in ("A_log", "dt_bias"):
        with pytest.raises(ValueError, match=f"{name} is given, expected use_gate_in_kernel too"):
            function(call.q, call.k, call.v, g=call.g, beta=call.beta, **{name: torch.zeros(4)})
    with pytest.raises(TypeError, match="head_first"):
        function(call.q, call.k, call.v, g=call.g, beta=call.beta, head_first=True)


@pytest.mark.parametrize(
    "function", [gdn.chunk_gated_delta_rule, gdn.fused_recurrent_gated_delta_rule]
)
@pytest.mark.parametrize("name", ["q", "k", "v", "g", "beta", "initial_state"])
def test_what_is_no_tensor_is_named(function, name):
    x, g = torch.zeros(1, 3, 4, 8), torch.zeros(1, 3, 4)
    arguments = {"q": x, "k": x, "v": x, "g": g, "beta": g, name: [1.0]}
    with pytest.raises(TypeError, match=f"{name} is a list, expected a tensor"):
        function(**arguments)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: gdn.causal_conv1d_fn([1.0], x),
        lambda x: gdn.causal_conv1d_update([1.0], x, x),
        lambda x: gdn.fused_gdn_gating(x, [1.0], x, x),
        lambda x: gdn.fused_gdn_gating(x, x, [1.0], x),
        lambda x: gdn.l2norm([1.0]),
        lambda x: gdn.rms_norm_gated([1.0], x, x),
        lambda x: gdn.solve_tril([1.0]),
    ],
)
def test_no_tensor_where_a_function_looks_first(call):
    with pytest.raises(TypeError, match="is a list, expected a tensor"):
        call(torch.zeros(2, 2))


@pytest.mark.parametrize(
    "function", [gdn.chunk_gated_delta_rule, gdn.fused_recurrent_gated_delta_rule]
)
def test_the_dtypes_of_g_are_listed(function):
    x, g = torch.zeros(1, 3, 4, 8), torch.zeros(1, 3, 4)
    message = "g has dtype float64, expected float32, bfloat16 or float16"
    with pytest.raises(TypeError, match=f"gdn.{function.__name__}: {message}"):
        function(x, x, x, g=g.double(), beta=g)


def test_beta_in_the_place_of_gk():
    x, g = torch.zeros(1, 3, 4, 8), torch.zeros(1, 3, 4)
    with pytest.raises(NotImplementedError, match="beta is the seventh argument: name it"):
        gdn.fused_recurrent_gated_delta_rule(x, x, x, g, g)


def test_a_kernel_of_no_name():
    with pytest.raises(NotImplementedError, match='"foo" does not run here.* reference'):
        with gdn.kernel("foo"):
            pytest.fail("entered")
    with pytest.raises(NotImplementedError, match='"foo" is not in this build'):
        gdn.ops.l2norm(torch.ones(2, 2), force_kernel="foo")


def test_a_model_that_is_no_module():
    from gdn.integrations.transformers import disable, enable

    for function in (enable, disable):
        with pytest.raises(TypeError, match=f"{function.__name__}: model is a str"):
            function("x")


def test_activations():
    x, w = torch.zeros(1, 3, 4), torch.zeros(3, 4)
    with pytest.raises(ValueError, match="activation is 'gelu'"):
        gdn.causal_conv1d_fn(x, w, activation="gelu")
    with pytest.raises(ValueError, match="activation is 'sigmoid'"):
        gdn.rms_norm_gated(x, x, w[0], activation="sigmoid")


def test_every_argument_may_be_given_by_name():
    """As torch.ops takes them."""
    x = torch.randn(3, 4)
    assert torch.equal(gdn.ops.l2norm(x=x), torch.ops.gdn.l2norm(x))


@pytest.mark.parametrize(
    "arguments, keywords",
    [((1,), {}), ((), {}), ((torch.ones(2, 2), 1), {}), ((torch.ones(2, 2),), dict(foo=1)),
     ((torch.ones(2, 2),), dict(eps="a"))],
)  # fmt: skip
def test_a_malformed_call_is_a_type_error(arguments, keywords):
    with pytest.raises(TypeError):
        gdn.ops.l2norm(*arguments, **keywords)
