"""ONNX Runtime's node LinearAttention, in a model of that node alone: float32, no packs, no pool, without gates and
l2norm inside. Inputs and outputs are bound to the tensors, so that nothing is copied."""

import numpy
import onnx
import onnxruntime
import torch

from .peer import Call
from .work import H, HV, SCALE, K, V

NAME = "ONNX Runtime"
NOTE = "l2norm not timed"


def version():
    return onnxruntime.__version__


def model():
    def value(name, *shape):
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    node = onnx.helper.make_node(
        "LinearAttention",
        ["q", "k", "v", "state", "g", "beta"],
        ["out", "new_state"],
        domain="com.microsoft",
        q_num_heads=H,
        kv_num_heads=HV,
        update_rule="gated_delta",
        scale=SCALE,
    )
    state_shape = ("B", HV, K, V)
    graph = onnx.helper.make_graph(
        [node],
        "gated_delta",
        [
            value("q", "B", "T", H * K),
            value("k", "B", "T", H * K),
            value("v", "B", "T", HV * V),
            value("state", *state_shape),
            value("g", "B", "T", HV),
            value("beta", "B", "T", HV),
        ],
        [value("out", "B", "T", HV * V), value("new_state", *state_shape)],
    )
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


def session(threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads wait in a loop, during a call for work to come (faster) and after it, where they would slow the next
    # peer's: the first stays.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model(), options, providers=["CPUExecutionProvider"])


def bind(of, inputs, outputs):
    binding = of.io_binding()
    for bind_one, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
        for name, tensor in tensors.items():
            bind_one(name, "cpu", 0, numpy.float32, tuple(tensor.shape), tensor.data_ptr())
    return binding


def tokens(x, batch):
    """[B,T,heads * D], or [B,T,heads]"""
    return x.float().reshape(batch, -1, x.shape[2] * (x.shape[3] if x.dim() == 4 else 1)).contiguous()


def prefill(inputs, threads):
    i = inputs
    if i.work.dtype != torch.float32 or i.work.sequences > 1:
        return None
    q, k = i.normalised()
    fed = dict(q=q, k=k, v=i.v, g=i.g, beta=i.beta)
    fed = {name: tokens(x, 1) for name, x in fed.items()} | {"state": i.initial_state("kv")}
    got = dict(out=torch.empty(1, i.work.tokens, HV * V), new_state=torch.empty(1, HV, K, V))
    of = session(threads)
    binding = bind(of, fed, got)
    # fed stays alive through the default argument.
    return Call(
        lambda turn, fed=fed: of.run_with_iobinding(binding),
        lambda n: (got["out"].view(-1, HV, V), got["new_state"][0].mT),
        NOTE,
    )


def decode(inputs, pool, threads):
    i, n = inputs, inputs.work.sequences
    if i.work.state_dtype != torch.float32:
        return None
    q, k = i.normalised()
    fed = {name: tokens(x, n) for name, x in dict(q=q, k=k, v=i.v, g=i.g, beta=i.beta).items()}
    states = pool.view("kv")[1:].split(n)
    got = [dict(out=torch.empty(n, 1, HV * V), new_state=torch.empty(n, HV, K, V)) for _ in states]
    of = session(threads)
    bindings = [bind(of, fed | {"state": state}, outputs) for state, outputs in zip(states, got)]

    def run(turn, fed=fed):
        of.run_with_iobinding(bindings[turn % len(bindings)])

    return Call(
        run,
        lambda s: (got[0]["out"].view(n, HV, V)[s], got[0]["new_state"][s].mT),
        NOTE + ", gates neither; no pool: new states",
        "kv",
        indexed=False,
    )
