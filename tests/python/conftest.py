import pytest
import torch

# Tensors here are small, and a machine that runs tests is shared.
torch.set_num_threads(1)


@pytest.fixture(params=["kernel", "stages"])
def route(request, monkeypatch):
    """The functions that ask gdn.ops: on the kernel of these tensors' device, and as if it had none."""
    if request.param == "stages":
        from gdn import staged
        from gdn.compat import vllm
        from gdn.compat.hpu_gdn_pytorch import operators

        monkeypatch.setattr(operators, "has_kernel", lambda device: False)
        monkeypatch.setattr(operators, "ops", staged)
        monkeypatch.setattr(vllm, "ops", staged)
    return request.param
