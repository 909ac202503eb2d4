"""What every datamodule inherits: purity, exact resumption, ranks, and the cache of evaluation sets."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import RBF, DigitsData, GPData, Matern, Mixed
from datamodules.loader import generator, mix
from npexp.errors import ConfigError

SMALL = {"batch_size": 2, "steps_per_epoch": 4, "num_val_batches": 3, "num_test_batches": 2}


@pytest.fixture
def make(tmp_path):
    def build(**settings):
        return GPData(**{"kernel": RBF(), "cache_dir": str(tmp_path), **SMALL, **settings})

    return build


def same(a, b):
    """Whether two batches are equal to the last bit."""
    return all(torch.equal(x, y) if x is not None else y is None for x, y in zip(a, b, strict=True))


def identical(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(map(same, first, second))


def test_mix_tells_words_apart():
    seeds = {mix(*words) for words in [(1, 2), (2, 1), (1,), (1, "train"), (1, "val"), (2**32 + 1,), (1 + 2**40,)]}
    assert len(seeds) == 7 and all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("index", [0, 7, 2**40])
def test_generator_is_philox_with_the_words_and_number_as_key(index):
    twin = np.random.Philox(key=np.array([mix(3, "train"), index], dtype=np.uint64))
    rng = generator(3, "train", index=index)
    assert (rng.random(9) == np.random.Generator(twin).random(9)).all()


def test_batches_are_pure(make):
    one, two = make(), make()
    forward = [one.make_batch("train", i) for i in range(4)]
    torch.manual_seed(7)
    backward = [two.make_batch("train", i) for i in (3, 2, 1, 0)][::-1]
    assert identical(forward, backward)
    assert not same(forward[0], one.make_batch("val", 0)) and not same(forward[0], forward[1])
    assert not same(forward[0], make(seed=1).make_batch("train", 0))


def test_threads_do_not_change_a_bit(make):
    dm = make(num_context=(256, 256), num_target=(256, 256), max_points=None, noise=0.0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = dm.make_batch("train", 0)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert same(two, dm.make_batch("train", 0))
    finally:
        torch.set_num_threads(before)


def test_global_generators_are_left_alone(make):
    before = torch.get_rng_state()
    dm = make()
    dm.make_batch("train", 0), dm.plot_tasks(1), dm.bayes_oracle("train", 2, 4, 2)
    assert torch.equal(before, torch.get_rng_state())


def test_epochs_and_workers(make):
    loaders = [make(num_workers=workers).train_dataloader() for workers in (0, 2)]
    for epoch in range(2):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        plain, parallel = (list(loader) for loader in loaders)
        assert len(plain) == len(loaders[0]) == 4
        assert identical(plain, parallel)
        assert identical(plain, [make().make_batch("train", 4 * epoch + i) for i in range(4)])


@pytest.mark.parametrize("workers", [0, 2])
def test_state_resumes_in_mid_epoch(make, workers):
    full = list(make().train_dataloader())
    loader = make(num_workers=workers).train_dataloader()
    stream = iter(loader)
    head = [next(stream) for _ in range(3)]
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    assert state == {"epoch": 0, "step": 3, "number": 3} and loader.number == 2
    resumed = make(num_workers=workers).train_dataloader()
    resumed.load_state_dict(state)
    assert identical(head + list(resumed), full)
    resumed.sampler.set_epoch(1)
    assert len(list(resumed)) == 4  # the next epoch is whole again


class Recorder(LightningModule):
    """A model that remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shown = []

    def training_step(self, batch, index):
        self.shown.append(batch)
        return self.weight * batch.yt.mean()

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers and logging
@pytest.mark.parametrize("resume_at", [2, 4, 6])  # in the first epoch, at its end, in the second
def test_lightning_resumes_bit_for_bit(make, tmp_path, resume_at):
    def fit(steps, checkpoint=None):
        keep = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            callbacks=[keep],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        model = Recorder()
        trainer.fit(model, datamodule=make(), ckpt_path=checkpoint, weights_only=True)
        return model

    unbroken = fit(10)
    resumed = fit(10, tmp_path / f"step={resume_at}.ckpt")
    assert identical(resumed.shown, unbroken.shown[resume_at:])
    assert torch.equal(resumed.weight, unbroken.weight)


def on_rank(dm, rank, world, per_step=1):
    dm.trainer = SimpleNamespace(global_rank=rank, world_size=world, accumulate_grad_batches=per_step)
    return dm


def test_ranks_see_different_tasks(make):
    ranks = [list(on_rank(make(), rank, 2).train_dataloader()) for rank in range(2)]
    assert not any(same(a, b) for a in ranks[0] for b in ranks[1])
    merged = [batch for pair in zip(*ranks, strict=True) for batch in pair]
    assert identical(merged, [make().make_batch("train", i) for i in range(8)])


def numbers(loader, epoch=0):
    """The global numbers of an epoch's batches."""
    loader.sampler.set_epoch(epoch)
    return [loader.number for _ in loader]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_step_takes_the_same_batches_on_any_number_of_processes(make, world):
    per_step = 4 // world
    ranks = [on_rank(make(), rank, world, per_step).train_dataloader() for rank in range(world)]
    for epoch in range(2):
        taken = np.array([numbers(loader, epoch) for loader in ranks]).reshape(world, 4, per_step)
        steps = [sorted(taken[:, step].flat) for step in range(4)]
        assert steps == [list(range(4 * t, 4 * t + 4)) for t in range(4 * epoch, 4 * epoch + 4)]


@pytest.mark.parametrize("before, after", [((1, 4), (2, 2)), ((4, 1), (1, 4)), ((2, 1), (1, 1)), ((1, 1), (2, 3))])
def test_other_processes_continue_the_stream(make, before, after):
    """Restarted in a third step: steps are repeated whole, batches never left out or seen twice."""
    (world, per_step), (new_world, new_per_step) = before, after
    loader = on_rank(make(), 0, world, per_step).train_dataloader()
    loader.sampler.set_epoch(1)
    stream = iter(loader)
    for _ in range(2 * per_step + (per_step > 1)):
        next(stream)
    state = loader.state_dict()
    first = 6 * world * per_step
    assert state == {"epoch": 1, "step": 2, "number": first}
    ranks = [on_rank(make(), rank, new_world, new_per_step).train_dataloader() for rank in range(new_world)]
    for loader in ranks:
        loader.load_state_dict(state)
    rest = sorted(number for epoch in (1, 2) for loader in ranks for number in numbers(loader, epoch))
    assert rest == list(range(first, first + 6 * new_world * new_per_step))
    assert ranks[0].state_dict() == {"epoch": 2, "step": 4, "number": first + 6 * new_world * new_per_step}


def test_ranks_share_evaluation(make):
    ranks = [list(on_rank(make(), rank, 2).val_dataloader()) for rank in range(2)]
    assert [len(r) for r in ranks] == [2, 1]
    assert identical([ranks[0][0], ranks[1][0], ranks[0][1]], make().val_dataloader())
    with pytest.raises(ConfigError, match="3 batches for 4 processes"):
        on_rank(make(), 0, 4).val_dataloader()


def test_one_test_set_or_several(make):
    assert len(make().test_dataloader()) == 2
    loaders = make(test_kernels={"rough": Matern(0.5)}).test_dataloader()
    assert isinstance(loaders, list) and len(loaders) == 2
    assert not same(next(iter(loaders[0])), next(iter(loaders[1])))


def test_cache_is_written_once_and_read_back(make, monkeypatch):
    made = list(make().val_dataloader())
    monkeypatch.setattr(GPData, "make_batch", lambda *_: pytest.fail("made again"))
    assert identical(make().val_dataloader(), made)


def test_prepare_data_leaves_nothing_half_written(make, tmp_path):
    make(test_kernels={"rough": Matern(0.5)}).prepare_data()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.rsplit("-", 1)[0] for name in names] == ["test", "test_rough", "val"]
    assert all(name.endswith(".pt") for name in names)


@pytest.mark.parametrize("damage", ["truncated", "text", "foreign", "empty"])
def test_damaged_files_are_made_again(make, damage):
    path = make().cache_file("val")
    good = list(make().val_dataloader())
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("not a tensor")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        torch.save({"settings": "others", "batches": []}, path)
    assert identical(make().val_dataloader(), good)
    assert torch.load(path, weights_only=True)["settings"] != "others"


def test_every_relevant_setting_names_another_file(make):
    kernels = [RBF(), RBF(scale=(0.1, 1.1)), RBF(log_uniform=True), Matern(), Matern(1.5), Mixed([RBF()])]
    variants = [{"kernel": kernel} for kernel in kernels]
    variants += [{"test_kernels": {"a": RBF()}}, {"test_kernels": {"b": RBF()}}]
    variants += [{"dx": 2}, {"noise": 0.03}, {"seed": 1}, {"batch_size": 3}, {"ragged": True}, {"max_points": None}]
    variants += [{"num_context": (3, 40)}, {"num_target": (3, 40)}, {"context_range": (-1.0, 2.0)}]
    variants += [{"target_range": (-2.0, 2.0)}, {"num_val_batches": 4}, {"num_test_batches": 4}]
    files = {make(**variant).cache_file("val") for variant in variants}
    assert len(files) == len(variants)
    assert make().cache_file("val") != make().cache_file("test")
    assert make(num_workers=1, steps_per_epoch=9).cache_file("val") == make().cache_file("val")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert GPData(RBF()).cache_file("val").parent == tmp_path / "npexp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DigitsData().cache_file("val").parent == tmp_path / ".cache" / "npexp"


def test_unwritable_cache_is_a_typed_error(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="set cache_dir"):
        make(cache_dir=str(tmp_path / "file")).prepare_data()
