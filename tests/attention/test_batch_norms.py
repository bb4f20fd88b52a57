"""Batch norms inside attentions are called: what synchronises, replaces or watches a norm does so in its call."""

import sys

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from foveal import ATTENTIONS
from foveal.attention import forms
from helpers import draw, filled, fitting, run_forked


class Counting(nn.BatchNorm2d):
    """A batch norm that counts its calls."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


NORMED = [
    (cls, form)
    for cls in ATTENTIONS.values()
    for form in forms(cls)
    if any(isinstance(part, _BatchNorm) for part in fitting(cls, 64).modules())
]


@pytest.mark.parametrize(("cls", "form"), NORMED, ids=[f"{cls.card.name}-{form}" for cls, form in NORMED])
def test_every_batch_norm_is_called_whatever_it_was_replaced_by(cls, form):
    assert {"nam", "coord", "sea"} <= {each.card.name for each, _ in NORMED}
    plain, counting = (filled(fitting(cls, 64)) for _ in range(2))
    norms = [part for part in counting.modules() if isinstance(part, _BatchNorm)]
    for norm in norms:
        norm.__class__ = Counting
    plain.form = counting.form = form
    x = draw(1, 2, 64, 5, 6).float()
    for training in (True, False):
        assert torch.equal(plain.train(training)(x), counting.train(training)(x))
    assert min(norm.calls for norm in norms) >= 2
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    assert any(isinstance(part, nn.SyncBatchNorm) for part in converted.modules())
    assert torch.equal(converted.eval()(x), counting.eval()(x))


def test_nam_synchronises_between_two_processes(tmp_path):
    code = """
import sys, torch, torch.distributed as dist, torch.multiprocessing as mp, torch.nn.functional as F, foveal
import torch.distributed.nn.functional as together

class Together(torch.nn.BatchNorm2d):  # what SyncBatchNorm does on a GPU
    def forward(self, x):
        everything = torch.cat(together.all_gather(x))
        y = F.batch_norm(everything, self.running_mean, self.running_var, self.weight, self.bias, True)
        return y.chunk(2)[dist.get_rank()]

def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    x, dy, nam = torch.randn(4, 8, 3, 5), torch.randn(4, 8, 3, 5), foveal.NAM(8)
    with torch.no_grad():
        nam.norm.weight.normal_(), nam.norm.bias.normal_()
    expected = nam(x)
    gradients = torch.autograd.grad(expected, list(nam.parameters()), dy)
    for form in ("reference", "fast"):
        each = foveal.NAM(8)
        each.load_state_dict(nam.state_dict())
        each.form, each.norm.__class__ = form, Together
        half = slice(2 * rank, 2 * rank + 2)
        out = each(x[half])
        torch.testing.assert_close(out, expected[half])
        shares = torch.autograd.grad(out, list(each.parameters()), dy[half])
        for share, whole in zip(shares, gradients):
            dist.all_reduce(share)
            torch.testing.assert_close(share, whole)
        # The real one is called, too: without a GPU it refuses, where it can be told to wait for others.
        real = torch.nn.SyncBatchNorm.convert_sync_batchnorm(nam)
        real.form = form
        try:
            torch.testing.assert_close(real(x[half]), expected[half])
        except ValueError as error:
            assert "SyncBatchNorm expected input tensor to be on" in str(error)
    if rank == 0:
        print("synchronised")

if __name__ == "__main__":
    mp.start_processes(work, (sys.argv[1],), 2, start_method="fork")
"""
    (tmp_path / "work.py").write_text(code)
    command = [sys.executable, "work.py", str(tmp_path)]
    assert run_forked(command, tmp_path, OMP_NUM_THREADS="1").strip() == "synchronised"
