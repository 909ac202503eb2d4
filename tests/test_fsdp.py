"""A model sharded over two forked gloo processes, as trainer/fsdp does over GPUs, computes what a whole one does."""

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.multiprocessing import start_processes

import npexp
from npexp.objectives import OBJECTIVES
from tests.test_ddp import free_port

LARGEST = 0.05  # norm of a gradient


class Step(torch.nn.Module):
    """What Lightning shards and calls: a module whose forward pass is the training step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.module = npexp.NPModule(npexp.build("tnp", dx=1, dy=1, dz=8, num_layers=2, num_heads=2))

    def forward(self, batch):
        return OBJECTIVES["loglik"](self.module.net, batch, 1, False).total


def sharded(rank, port, batches, path):
    """One process with its batch: its share of the weights, its loss, and all clipped gradients and new weights."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    step = Step()
    root = FullyShardedDataParallel(step, use_orig_params=True, device_id=torch.device("cpu"))
    share = sum(p.numel() for p in root.parameters())
    optimizer = torch.optim.SGD(step.module.net.parameters(), lr=1.0)
    loss = root(batches[rank])
    loss.backward()
    step.module._trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    step.module._trainer.strategy.model = root
    step.module.configure_gradient_clipping(optimizer, LARGEST, "norm")
    optimizer.step()
    with FullyShardedDataParallel.summon_full_params(root, with_grads=True):
        found = {name: (p.grad.clone(), p.detach().clone()) for name, p in step.module.net.named_parameters()}
    torch.save((share, loss.detach(), found), path / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, about sharding on a CPU
def test_a_sharded_model_takes_the_step_of_a_whole_one(tmp_path):
    data = npexp.build_data("gp_rbf", batch_size=4, cache_dir=str(tmp_path))
    batches = [data.make_batch("train", i) for i in range(2)]
    start_processes(sharded, (free_port(), batches, tmp_path), nprocs=2, start_method="fork")

    whole = Step()
    losses = [whole(batch) for batch in batches]
    torch.stack(losses).mean().backward()
    torch.nn.utils.clip_grad_norm_(whole.parameters(), LARGEST)
    torch.optim.SGD(whole.parameters(), lr=1.0).step()
    size = sum(p.numel() for p in whole.parameters())
    for rank in range(2):
        share, loss, found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert share == (size + 1) // 2
        torch.testing.assert_close(loss, losses[rank].detach())
        for name, p in whole.module.net.named_parameters():
            torch.testing.assert_close(found[name], (p.grad, p.detach()), rtol=1e-4, atol=1e-7, msg=name)
