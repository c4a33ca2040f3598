"""PyTorch's threads do the work, and change no bit of the result."""

import threading

import inputs
import pytest
import torch

import gdn


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("operator", ["chunk", "recurrent"])
def test_their_number_changes_no_bit(operator, threads):
    call = inputs.delta_rule(B=3, T=40)
    found = []
    for count in (1, 2, 5):
        threads(count)
        found.append(
            getattr(torch.ops.gdn, operator)(
                *call.tokens, call.state, output_final_state=True, **call.options
            )
        )
    assert all(torch.equal(a, b) for results in found[1:] for a, b in zip(results, found[0]))


def test_set_num_threads_is_heard(threads):
    threads(3)
    assert "threads    3 (PyTorch)" in gdn.info()


def test_calls_from_several_threads_at_once(threads):
    threads(2)
    call = inputs.delta_rule(B=3, T=100)
    wanted = torch.ops.gdn.chunk(*call.tokens, call.state, output_final_state=True, **call.options)
    wrong = []

    def work():
        for _ in range(20):
            got = torch.ops.gdn.chunk(
                *call.tokens, call.state, output_final_state=True, **call.options
            )
            if not all(torch.equal(a, b) for a, b in zip(got, wanted)):
                wrong.append(got)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
