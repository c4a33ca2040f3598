"""Which code runs for tensors on a GPU, and what is said about wrong calls there. Some of it can be
seen without a GPU: what is loaded, and that nothing asks for a GPU before it is needed."""

import pathlib
import shutil
import subprocess
import sys

import inputs
import pytest
import torch
from gpu import needs_gpu, to
from torch._subclasses.fake_tensor import FakeTensorMode

import gdn
from gdn import _library, staged
from gdn._library import FUNCTIONAL, IN_PLACE

PACKAGE = pathlib.Path(gdn.__file__).parent
OPERATORS = [n for n in (*FUNCTIONAL, *IN_PLACE) if not n.startswith("reference_")]

needs_library = pytest.mark.skipif(
    _library.without_cuda is not None, reason=f"no kernels for GPUs: {_library.without_cuda}"
)


def run_python(code, folder=PACKAGE.parent):
    """In a process of its own, on that package."""
    command = [sys.executable, "-W", "ignore:Failed to initialize NumPy", "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def package_with(tmp_path, **objects):
    """A copy of the package with these shared objects, name: bytes, or a path to link to."""
    copy = tmp_path / "gdn"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name, content in objects.items():
        place = copy / f"{name}.so"
        place.symlink_to(content) if isinstance(content, pathlib.Path) else place.write_bytes(content)
    return tmp_path


CPU_OBJECT = PACKAGE / "libgdn_torch.so"
CUDA_OBJECT = PACKAGE / "libgdn_torch_cuda.so"
IS_LEFT_OUT = """
import torch, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import gdn
said = [str(w.message) for w in said if "gdn" in str(w.message)]
assert not torch._C._dispatch_has_kernel_for_dispatch_key("gdn::chunk", "CUDA")
assert not gdn.has_kernel("cuda")
assert gdn.l2norm(torch.ones(3)).shape == (3,)
assert "no kernels for NVIDIA GPUs: " + REASON in gdn.info(), gdn.info()
assert bool(said) == WARNS, said
"""


def left_out(reason, warns):
    return IS_LEFT_OUT.replace("REASON", repr(reason)).replace("WARNS", str(warns))


@needs_library
@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_registered(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"gdn::{name}", "CUDA")


@needs_library
def test_importing_asks_for_no_gpu():
    """A process that has asked the driver cannot fork, as loaders of data do. A driver that is
    asked would be loaded: libcuda. Some machines' PyTorch loads it by itself."""
    code = """
import torch
loaded = "libcuda.so" in open("/proc/self/maps").read()
import gdn
assert not torch.cuda.is_initialized()
assert torch._C._dispatch_has_kernel_for_dispatch_key("gdn::chunk", "CUDA")
gdn.l2norm(torch.ones(3))
assert not torch.cuda.is_initialized()
assert loaded or "libcuda.so" not in open("/proc/self/maps").read()
"""
    found = run_python(code)
    assert found.returncode == 0, found.stderr


@needs_library
def test_without_its_object_gpus_have_no_kernel(tmp_path):
    folder = package_with(tmp_path, libgdn_torch=CPU_OBJECT.resolve())
    found = run_python(left_out("gdn was built without nvcc", False), folder)
    assert found.returncode == 0, found.stderr


def test_an_object_that_does_not_load_is_said_and_left_out(tmp_path):
    if torch.version.cuda is None:
        pytest.skip("PyTorch without CUDA looks for no such object")
    folder = package_with(
        tmp_path, libgdn_torch=CPU_OBJECT.resolve(), libgdn_torch_cuda=b"not an object"
    )
    found = run_python(left_out("libgdn_torch_cuda.so does not load", True), folder)
    assert found.returncode == 0, found.stderr


@pytest.mark.skipif(not CUDA_OBJECT.exists(), reason="built without nvcc")
def test_a_pytorch_without_cuda_does_not_look_at_it(tmp_path):
    folder = package_with(
        tmp_path, libgdn_torch=CPU_OBJECT.resolve(), libgdn_torch_cuda=b"not an object"
    )
    as_if = "import torch; torch.version.cuda = None\n"
    found = run_python(as_if + left_out("this PyTorch has no CUDA", False), folder)
    assert found.returncode == 0, found.stderr


@pytest.mark.skipif(not CUDA_OBJECT.exists(), reason="built without nvcc")
def test_beside_a_pytorch_without_cuda_it_is_refused_whole():
    """By the name of PyTorch's library, before any of its code runs. Of this PyTorch the part for the
    CPU alone is loaded, as another would have it."""
    code = f"""
import ctypes, importlib.util, pathlib
folder = pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib"
ctypes.CDLL(folder / "libtorch_cpu.so")
try:
    ctypes.CDLL("{CUDA_OBJECT}")
except OSError as error:
    assert "libtorch_cuda.so" in str(error), error
else:
    raise AssertionError("it loads")
assert "libgdn_torch" not in open("/proc/self/maps").read()
"""
    found = run_python(code)
    assert found.returncode == 0, found.stderr


@pytest.fixture
def gpu_without_kernel(monkeypatch):
    monkeypatch.setattr(gdn._dispatch, "_gpu_has_kernel", lambda device: False)
    # What is known of this process's GPUs, if it has any.
    known = {device: True for device in map(torch.device, ("cpu", "meta"))}
    monkeypatch.setattr(gdn._dispatch, "_has_kernel", known)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_gpu_without_a_kernel_takes_tensor_operations(name, gpu_without_kernel, monkeypatch):
    """An older GPU, or a package built without nvcc."""
    monkeypatch.setattr(staged, name, lambda *args, **kwargs: "staged")
    with FakeTensorMode():
        x = torch.empty(3, device="cuda")
    assert getattr(gdn.ops, name)(x) == "staged"


@needs_library
@pytest.mark.parametrize("capability", ["", "compute capability 7.5, expected 8.0 or later"])
def test_what_the_device_supports_decides(capability, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(gdn._dispatch, "_has_kernel", {})
    monkeypatch.setattr(
        torch.ops.gdn, "_gpu_status", lambda index: capability if index == 3 else "another device"
    )
    if capability:
        with pytest.warns(UserWarning, match=f"tensor operations run on cuda:3: {capability}"):
            assert not gdn.has_kernel("cuda")
    else:
        assert gdn.has_kernel("cuda")
    assert gdn.has_kernel("cuda:3") == (not capability)  # and is not said twice


@needs_library
def test_traced_calls_come_to_the_operator(monkeypatch):
    """has_kernel is a constant for what traces: a graph for a GPU has gdn.chunk in it."""
    asks_the_driver = torch._dynamo.disable(lambda device: True)  # which nothing could trace
    monkeypatch.setattr(gdn._dispatch, "_gpu_has_kernel", asks_the_driver)
    monkeypatch.setattr(gdn._dispatch, "_has_kernel", {})
    call = inputs.delta_rule(T=7)

    class Prefill(torch.nn.Module):
        def forward(self, q, k, v, g, beta):
            return gdn.chunk_gated_delta_rule(q, k, v, g, beta, use_qk_l2norm_in_kernel=True)[0]

    with FakeTensorMode(allow_non_fake_inputs=True):
        tokens = tuple(torch.empty(x.shape, dtype=x.dtype, device="cuda") for x in call.tokens)
        graph = torch.export.export(Prefill(), tokens, strict=True).graph
    assert any("gdn.chunk" in str(node.target) for node in graph.nodes)


def test_no_flag_without_a_gpu_with_a_kernel():
    with pytest.raises(NotImplementedError, match="the device is cpu, expected a GPU"):
        gdn.out_of_range("cpu")


# From here on with a GPU.


def gpu_call(**shape):
    return to("cuda", inputs.delta_rule(**shape))


@needs_gpu
def test_it_is_a_kernel_that_runs(monkeypatch):
    """Neither tensor operations nor a copy to the CPU."""
    monkeypatch.setattr(staged, "chunk", None)
    monkeypatch.setattr(torch.Tensor, "cpu", None)
    call = gpu_call()
    out, state = gdn.ops.chunk(*call.tokens, output_final_state=True, **call.options)
    assert out.is_cuda and state.is_cuda
    assert gdn.has_kernel("cuda") and gdn.has_kernel(out.device)


@needs_gpu
def test_a_process_that_has_imported_it_can_fork():
    code = """
import os, torch, gdn
gdn.l2norm(torch.ones(3))
child = os.fork()
if child == 0:
    ok = gdn.l2norm(torch.ones(3, device="cuda")).sum().item() > 1.7
    os._exit(0 if ok else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert gdn.l2norm(torch.ones(3, device="cuda")).sum().item() > 1.7
"""
    found = run_python(code)
    assert found.returncode == 0, found.stderr


@needs_gpu
def test_kernels_by_name():
    call = gpu_call(K=64, V=64)
    names = [name for name in gdn.kernels() if name.startswith("sm")]
    assert names
    for name in names:
        with gdn.kernel(name):
            gdn.ops.chunk(*call.tokens, **call.options)
    message = f'kernel "reference" takes no tensors on CUDA, expected one of .*{names[-1]}'
    with gdn.kernel("reference"), pytest.raises(NotImplementedError, match=message):
        gdn.ops.chunk(*call.tokens, **call.options)
    message = f'kernel "{names[0]}" takes no tensors on CPU, expected one of .*scalar'
    with gdn.kernel(names[0]), pytest.raises(NotImplementedError, match=message):
        gdn.l2norm(torch.ones(3))


@needs_gpu
def test_wrong_arguments():
    call = gpu_call()
    before = call.state.clone()
    short = (*call.tokens[:4], call.tokens[4][..., :3])
    message = r"gdn.recurrent: beta has shape \[2,70,3\], expected \[2,70,4\]"
    with pytest.raises(ValueError, match=message):
        gdn.ops.recurrent_(*short, call.state, **call.options)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.gdn.recurrent_(*short, call.state, **call.options)
    with pytest.raises(TypeError, match="gdn.recurrent: k has dtype float64"):
        gdn.ops.recurrent_(call.q, call.k.double(), *call.tokens[2:], call.state, **call.options)
    assert torch.equal(call.state, before)


@needs_gpu
@pytest.mark.parametrize("place", ["k", "state", "initial_state_indices"])
def test_a_tensor_left_on_the_cpu_is_named(place):
    call = gpu_call()
    call.options["initial_state_indices"] = torch.tensor([0, 1], device="cuda")
    if place == "initial_state_indices":
        call.options[place] = call.options[place].cpu()
    else:
        setattr(call, place, getattr(call, place).cpu())
    name = {"state": "initial_state"}.get(place, place)
    with pytest.raises(ValueError, match=f"gdn.recurrent: {name} is on CPU, expected CUDA"):
        gdn.ops.recurrent_(*call.tokens, call.state, **call.options)


@needs_gpu
def test_values_out_of_range_are_padding_and_raise_the_flag():
    call = gpu_call(T=1)
    pool = torch.randn(5, *call.state.shape[1:], device="cuda")
    flag = gdn.out_of_range("cuda")
    assert gdn.out_of_range("cuda") is flag
    for slots, expected in (([3, 1], 0), ([3, 5], 1), ([3, -1], 0), ([3, 1 << 40], 1)):
        flag.zero_()
        before = pool.clone()
        out = gdn.ops.recurrent_(
            *call.tokens, pool, initial_state_indices=torch.tensor(slots, device="cuda"),
            **call.options,
        )  # fmt: skip
        assert flag.item() == expected
        assert not torch.equal(pool[3], before[3])
        assert torch.equal(pool[[0, 2, 4]], before[[0, 2, 4]])
        if slots[1] != 1:
            assert torch.equal(pool[1], before[1]) and out[1].count_nonzero() == 0
    flag.zero_()


@needs_gpu
def test_lengths_out_of_range_raise_the_flag():
    call = gpu_call(lengths=[3, 70])
    flag = gdn.out_of_range()
    flag.zero_()
    call.options["cu_seqlens"] = torch.tensor([0, 3, 90], device="cuda")
    out, state = gdn.ops.chunk(*call.tokens, call.state, output_final_state=True, **call.options)
    assert flag.item() == 1
    assert out[:, :3].count_nonzero() > 0 and not out.isnan().any()
    flag.zero_()


@needs_gpu
def test_no_memory_is_an_error_of_pytorch_for_it():
    x = torch.ones(1, 1, device="cuda").expand(1 << 40, 1)
    with pytest.raises(torch.OutOfMemoryError, match="gdn: could not allocate a tensor of"):
        gdn.ops.l2norm(x)


@needs_gpu
def test_gradients_raise_as_on_the_cpu():
    call = gpu_call(T=5)
    for name in ("chunk", "recurrent"):
        q = call.q.clone().requires_grad_()
        out, _ = getattr(gdn.ops, name)(q, *call.tokens[1:], **call.options)
        with pytest.raises(NotImplementedError, match=f"gdn.{name} has no backward"):
            out.sum().backward()
        with pytest.raises(RuntimeError, match=f"gdn.{name}_: a tensor requires a gradient"):
            getattr(gdn.ops, name + "_")(q, *call.tokens[1:], call.state, **call.options)
        with torch.no_grad():
            getattr(gdn.ops, name + "_")(q, *call.tokens[1:], call.state, **call.options)


@needs_gpu
def test_a_backward_hears_of_states_written_in_place():
    call = gpu_call(T=5)
    x = torch.ones_like(call.state).requires_grad_()
    product = x * call.state  # which saves the states
    with torch.no_grad():
        gdn.ops.recurrent_(*call.tokens, call.state, **call.options)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@needs_gpu
def test_in_inference_mode():
    call = gpu_call(T=5)
    wanted = gdn.ops.recurrent(*call.tokens, call.state, output_final_state=True, **call.options)
    with torch.inference_mode():
        state = call.state.clone()
        out = gdn.ops.recurrent_(*call.tokens, state, **call.options)
    assert torch.equal(out, wanted[0]) and torch.equal(state, wanted[1])
