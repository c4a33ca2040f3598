"""Every test starts from a seed of its own, which a failure prints: GDN_TEST_SEED=<seed> repeats
it."""

import os
import zlib

import pytest
import torch

# Tensors here are small, and a machine that runs tests is shared. test_threads.py asks for more.
torch.set_num_threads(1)


def _seed_of(item):
    return int(os.environ.get("GDN_TEST_SEED", zlib.crc32(item.nodeid.encode())))


@pytest.fixture(autouse=True)
def _seeded(request):
    torch.manual_seed(_seed_of(request.node))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" and report.failed:
        report.sections.append(("repeat", f"GDN_TEST_SEED={_seed_of(item)} pytest '{item.nodeid}'"))


@pytest.fixture(params=["kernel", "stages"])
def route(request, monkeypatch):
    """gdn.compat on the kernel of these tensors' device, and as if the device had none."""
    if request.param == "stages":
        from gdn import staged
        from gdn.compat import vllm
        from gdn.compat.hpu_gdn_pytorch import operators

        monkeypatch.setattr(operators, "has_kernel", lambda device: False)
        monkeypatch.setattr(operators, "ops", staged)
        monkeypatch.setattr(vllm, "ops", staged)
    return request.param
