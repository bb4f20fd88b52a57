"""The host's trainers and validators, recording what a study needs and continuing exactly where they were killed.

The stock trainer resumes from half-precision averages: a run that was interrupted ends elsewhere than one that was not,
and nobody sees it in the result. Here

- every epoch draws its order and augmentations from (seed, epoch) alone, whatever was drawn before it, so that arms see
  the same batches and a resumed epoch is the one that was lost; on several devices each draws from its number, too,
  and what is noted of a batch is what all of them read;
- `resume.pt`, written whole after each epoch or each few, is the host's checkpoint in full precision, with the state
  it leaves out: the weights beside their averages, gradients not applied yet, and the record so far.

On a CPU a resumed run then equals an undisturbed one bit for bit. On a GPU they differ by what its kernels leave open.
"""

import copy
import hashlib
import os
import pickle
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.utils.data.distributed import DistributedSampler

from ...checkpoints import Unwanted, require_harmless
from ...errors import UserError
from ...evidence import CLASSIFY, Task
from ...files import require_intact, write_text, write_whole
from ...tensors import digests
from .. import Recipe
from . import models as host  # before Ultralytics itself, because it says if that is missing or too old
from . import ranks
from .arguments import grammar
from .bound import Bound

# isort: split
from ultralytics.utils.dist import find_free_network_port

RESUME, PERIOD = "resume.pt", "resume_period.txt"
RANK = int(os.environ.get("RANK", -1))  # of this process in multi-GPU training
_NOT_YET = sys.maxsize
_Semantic: Any = getattr(host, "SemanticSegmentationTrainer", host.DetectionTrainer)  # which older hosts lack


def resumable(folder: Path) -> dict | None:
    """The checkpoint from which a run in this folder goes on; None if there is none, or of another place.

    Raises:
        Unwanted: it would run more than layers.
    """
    file = folder / RESUME
    try:
        require_harmless(file)
        found = torch.load(file, map_location="cpu", weights_only=False)
        return found if Path(found["train_args"]["save_dir"]) == folder.resolve() else None
    except Unwanted:
        raise
    except (UserError, OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError):  # none, or damaged
        return None


def period(folder: Path) -> int:
    """After how many epochs each `resume.pt` is written into the folder of a run; 1 where that is not said."""
    file = folder / PERIOD
    return int(file.read_text()) if file.is_file() else 1


class _Recording(host.parser.Mixed):
    """Mixed into a trainer of the host.

    All it needs is in the trainer's own arguments and in the folder that they name, because workers of a multi-GPU run
    make their trainer from those.
    """

    validator: Any
    accumulate: int

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        folder = Path(self.save_dir)
        self.recipe, self.bound, self.period = Recipe.load(folder), Bound.load(folder), period(folder)
        self.record: dict[str, Any] = {"start": {}, "batches": [], "seconds": [], "peak_bytes": None, "resumed": 0}
        self.record["data"] = self.bound and self.bound.digest
        self._digest, self._position, self._began = hashlib.blake2b(digest_size=8), -1, 0.0
        self._last_step, self._unapplied, self._steps_in_time, self._nominal = -1, {}, True, 1

    def get_dataloader(self, dataset_path, batch_size=16, rank=0, mode="train"):
        """The host's loader; that of training with epochs of its own."""
        loader = super().get_dataloader(dataset_path, batch_size, rank, mode)
        return _Epochs(loader, self) if mode == "train" else loader

    def set_model_attributes(self):
        """The host's hook between building the model and training it."""
        super().set_model_attributes()
        self.record["start"] = digests(self.model)

    def train(self):
        """The host's, but of several devices each has a process that ends with this one."""
        if not self.ddp:
            return super().train()
        arguments = {
            **vars(self.args),
            "rect": False,
        }  # as the host has it there, with `save_dir`, which is none of its
        given = {"cfg": {**grammar.DEFAULT_CFG_DICT, "save_dir": ""}, "overrides": arguments}
        ranks.train(type(self), given, find_free_network_port(), self.world_size)

    def begin_epoch(self) -> None:
        """Called by the loader before the first batch."""
        self._digest, self._position, self._began = hashlib.blake2b(digest_size=8), -1, time.perf_counter()

    def drawn(self, rank: int = -1) -> int:
        """What this epoch draws from: in the process of a device, or -1 for what all of them draw alike."""
        return int(np.random.SeedSequence([self.args.seed, self.epoch, rank + 1]).generate_state(1)[0])

    def end_epoch(self) -> None:
        """Called by the loader after the last batch; what each device saw becomes what all of them saw."""
        self._note_peak(_peak_bytes(self.device))
        if self.world_size > 1:
            seen: list[Any] = [None] * self.world_size
            distributed.all_gather_object(seen, (self._digest.digest(), self.record["peak_bytes"]))
            self._digest = hashlib.blake2b(b"".join(digest for digest, _ in seen), digest_size=8)
            for _, peak in seen:
                self._note_peak(peak)

    def _note_peak(self, found: int | None) -> None:
        self.record["peak_bytes"] = found and max(found, self.record["peak_bytes"] or 0)

    def preprocess_batch(self, batch):
        """The host's, of a batch whose content is noted first."""
        self._position += 1
        for name in batch.get("im_file", ()):
            self._digest.update(Path(name).name.encode())
        labels = (batch.get(name) for name in ("cls", "bboxes", "masks", "keypoints", "semantic_mask"))
        for part in (batch["img"][..., ::8, ::8], *labels):
            if part is not None:  # each task has some of them
                self._digest.update(part.contiguous().cpu().numpy().tobytes())
        if not self._steps_in_time:
            self._wait_for_step()
        return super().preprocess_batch(batch)

    def optimizer_step(self):
        """The host's, at a batch that is remembered."""
        super().optimizer_step()
        self._last_step = self._iteration()

    def save_model(self):
        """The host's, then everything that an exact continuation needs, if the epochs read what they should have."""
        done = self.epoch + 1
        due = done == self.epochs or done % self.period == 0
        if self.bound and due:
            self.bound.require()
        saved = super().save_model()
        self.record["batches"].append(self._digest.hexdigest())
        self.record["seconds"].append(time.perf_counter() - self._began)
        self.record["batch"] = self.batch_size
        self._note_peak(_peak_bytes(self.device))
        if due:
            state = self._state()
            write_whole(self.save_dir / RESUME, lambda path: torch.save(state, path), require_intact)
        return saved

    def _state(self) -> dict[str, Any]:
        """The host's checkpoint, whose average and optimizer are rounded to 16 bits, with the exact ones in it."""
        state = torch.load(self.last, map_location="cpu", weights_only=False, mmap=True)  # no tensor of it is read
        state["ema"], state["optimizer"] = _without_loss(self.ema.ema), self.optimizer.state_dict()
        parameters = _plain(self.model).named_parameters()
        state["foveal"] = {
            "model": _plain(self.model).state_dict(),
            "scaler": self.scaler.state_dict(),
            "gradients": {name: parameter.grad for name, parameter in parameters if parameter.grad is not None},
            "last_step": self._last_step,
            "record": self.record,
        }
        return state

    def resume_training(self, ckpt):
        """The host's, with what it forgets or leaves rounded."""
        super().resume_training(ckpt)
        if not self.resume or ckpt is None:
            return
        exact = ckpt["foveal"]
        _plain(self.model).load_state_dict(exact["model"])
        self.scaler.load_state_dict(exact["scaler"])
        self.record, self._last_step = exact["record"], exact["last_step"]
        self.record["resumed"] += 1
        self._unapplied, self._steps_in_time = exact["gradients"], False
        self._drop_lost_rows(ckpt["epoch"] + 1)

    def final_eval(self):
        """The host's, but for its evaluation of best.pt: a cell makes its own, and keeps what was found."""
        validator, self.validator = self.validator, _Skipped(self.validator.args, self.metrics)
        try:
            super().final_eval()
        finally:
            self.validator = validator

    def _setup_scheduler(self):
        """The host's, or the recipe's."""
        if not self.recipe.steps:
            return super()._setup_scheduler()
        self.lf = lambda epoch: self.recipe.rate(epoch, self.epochs)  # the host reads it while warming up
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.lf)

    def _drop_lost_rows(self, epochs: int) -> None:
        """Rows of results.csv that were written after `resume.pt`."""
        if RANK in (-1, 0) and self.csv.exists():
            lines = self.csv.read_text().splitlines(keepends=True)[: 1 + epochs]
            write_text(self.csv, "".join(lines))

    def _iteration(self) -> int:
        return self._position + len(self.train_loader) * self.epoch

    def _wait_for_step(self) -> None:
        """Hold the host back until the first step after a resume, because it believes that none was ever made.

        It steps once `accumulate` batches have passed since its own last step, of which it knows nothing.
        """
        if self._position == 0:
            for name, parameter in _plain(self.model).named_parameters():
                if name in self._unapplied:
                    parameter.grad = self._unapplied[name].to(parameter.device)
            self._unapplied = {}
        if self.accumulate == _NOT_YET:  # else the host has set it anew, as it does while warming up
            self.accumulate = self._nominal
        self._steps_in_time = self._iteration() - self._last_step >= self.accumulate
        if not self._steps_in_time:
            self._nominal, self.accumulate = self.accumulate, _NOT_YET


class DetectionTrainer(_Recording, host.DetectionTrainer):
    """Ultralytics' trainer for `detect`, recording."""


class SegmentationTrainer(_Recording, host.SegmentationTrainer):
    """Ultralytics' trainer for `segment`, recording."""


class PoseTrainer(_Recording, host.PoseTrainer):
    """Ultralytics' trainer for `pose`, recording."""


class OBBTrainer(_Recording, host.OBBTrainer):
    """Ultralytics' trainer for `obb`, recording."""


class RTDETRTrainer(_Recording, host.RTDETRTrainer):
    """Ultralytics' trainer for RT-DETR, recording."""


class ClassificationTrainer(_Recording, host.ClassificationTrainer):
    """Ultralytics' trainer for `classify`, recording."""

    def __init__(self, cfg=grammar.DEFAULT_CFG, overrides: dict | None = None, _callbacks=None):
        self._sized = bool((overrides or {}).get("imgsz"))
        super().__init__(cfg, overrides, _callbacks)

    def check_resume(self, overrides):
        """The host's, but older ones would go on at 224 pixels, which they have filled in by then."""
        super().check_resume({key: value for key, value in overrides.items() if self._sized or key != "imgsz"})

    def get_model(self, cfg=None, weights=None, verbose=True):
        """The host's, but for `pretrained=False` it draws all layers anew, and an attention shifts what others draw."""
        pretrained, self.args.pretrained = self.args.pretrained, True
        try:
            fresh = pretrained is False and not self.resume
            return super().get_model(cfg, None if fresh else weights, verbose)
        finally:
            self.args.pretrained = pretrained

    def validate(self):
        """The host's, of images in the same order each time: its loader shuffles, and its loss is one of batches."""
        self.test_loader.generator.manual_seed(self.args.seed)
        self.test_loader.reset()
        return super().validate()

    def build_dataset(self, img_path, mode="train", batch=None):
        """The host's; that of training with the recipe's crops."""
        dataset = super().build_dataset(img_path, mode, batch)
        if mode == "train" and self.recipe.padding:
            _crop(dataset.torch_transforms.transforms, self.args.imgsz, self.recipe.padding)
        return dataset


class SemanticSegmentationTrainer(_Recording, _Semantic):
    """Ultralytics' trainer for `semantic`, recording."""


def trainer(model: str, task: Task) -> type[_Recording]:
    """The trainer for a model file or name, and its task."""
    return RTDETRTrainer if host.is_rtdetr(model) else _TRAINERS[task.name]


_TRAINERS: dict[str, type[_Recording]] = {
    "detect": DetectionTrainer,
    "segment": SegmentationTrainer,
    "pose": PoseTrainer,
    "obb": OBBTrainer,
    CLASSIFY: ClassificationTrainer,
    "semantic": SemanticSegmentationTrainer,
}


def _crop(transforms: list, size: int, padding: int) -> None:
    """Put crops of padded images in the place of the host's, which are of random size."""
    from torchvision import transforms as known

    (place,) = (i for i, transform in enumerate(transforms) if isinstance(transform, known.RandomResizedCrop))
    transforms[place : place + 1] = [known.Resize(size), known.RandomCrop(size, padding)]


@dataclass(frozen=True)
class _Skipped:
    """Stands in the place of a validator, and answers with metrics that are known: by the first of several devices."""

    args: object
    metrics: dict[str, float] | None

    def __call__(self, **_: object) -> dict[str, float]:
        return dict(self.metrics or {})


class _Epochs:
    """A loader of the host whose every epoch draws from (seed, epoch) alone."""

    def __init__(self, loader, trainer: _Recording):
        self.loader, self.trainer = loader, trainer

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        self.trainer.begin_epoch()
        if isinstance(sampler := self.loader.sampler, DistributedSampler):  # the host's order is one of the epoch alone
            sampler.seed = self.trainer.drawn()
            sampler.set_epoch(0)
        seed = self.trainer.drawn(RANK)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        self.loader.generator.manual_seed(seed)
        _refill(self.loader.dataset)
        self.loader.reset()
        yield from self.loader
        self.trainer.end_epoch()


def _refill(dataset) -> None:
    """Draw anew the images that mosaics take their other three from: the host's are the last ones it loaded."""
    if not getattr(dataset, "max_buffer_length", 0):
        return
    if dataset.cache != "ram":
        for index in dataset.buffer:
            dataset.ims[index] = None
    dataset.buffer = random.sample(range(len(dataset)), dataset.max_buffer_length)


def _peak_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource  # not on Windows
    except ModuleNotFoundError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _without_loss(model: nn.Module) -> nn.Module:
    """The model with the same tensors and without its loss, which some hosts make only where there is none."""
    found = copy.copy(model)
    found._modules = {name: module for name, module in model._modules.items() if name != "criterion"}
    vars(found).pop("criterion", None)
    return found


def _plain(model: nn.Module) -> nn.Module:
    """The model inside the wrapper of multi-GPU training."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
