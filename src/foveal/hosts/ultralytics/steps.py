"""A step of training on drawn images, with the losses of Ultralytics: to be timed, nothing is learned from it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...evidence import Says, Task
from . import models

OBJECTS = 8  # in each drawn image
MASKS = 4  # pixels to a cell of their grid


def labelled(
    task: Task, images: int, size: int, seed: int, channels: int, points: Sequence[int] = (0, 0)
) -> dict[str, Tensor]:
    """A drawn batch as the host's losses take it.

    Args:
        task: of the model.
        images: how many.
        size: of each, in pixels.
        seed: of what is drawn.
        channels: of each image.
        points: how many key points an object has, and numbers each of them.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn_images = torch.rand((images, channels, size, size), generator=generator)
    if task.says is Says.CLASS:
        labels = torch.zeros(images, dtype=torch.long)
        return {"img": drawn_images, "cls": labels}
    if task.says is Says.MAP:
        classes = torch.randint(0, 2, (images, size, size), generator=generator)
        return {"img": drawn_images, "semantic_mask": classes}
    boxes = torch.rand((images * OBJECTS, 4), generator=generator) * 0.3 + 0.2  # centre and size as shares of the image
    batch = {
        "img": drawn_images,
        "cls": torch.zeros(images * OBJECTS, 1),
        "bboxes": boxes,
        "batch_idx": torch.arange(images).repeat_interleave(OBJECTS).float(),
    }
    if task.name == "obb":
        batch["bboxes"] = torch.cat([boxes, torch.rand((len(boxes), 1), generator=generator)], 1)  # the angle last
    elif task.name == "pose":
        batch["keypoints"] = torch.ones(len(boxes), points[0], 3) / 2
    elif task.name == "segment":  # in each image the number of an object at each place, from 1, and classes at each
        shape = (images, size // MASKS, size // MASKS)
        batch["masks"] = torch.randint(0, OBJECTS + 1, shape, generator=generator).float()
        batch["sem_masks"] = torch.zeros(shape)
    return batch


def taught(student: models.Network, teacher: str) -> nn.Module:
    """A model with the one that teaches it, as the host trains them.

    Raises:
        UserError: the teacher reads maps of other levels, or has no such head.
    """
    from ultralytics.nn.distill_model import DistillationModel  # not in older hosts

    with models.refusing(teacher):
        return DistillationModel(teacher, student)


def step(model: nn.Module, batch: dict[str, Tensor], dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """Loss and gradients of a batch; no step is taken, so every round computes the same."""
    drawn_batch = {name: tensor.to(device) for name, tensor in batch.items()}
    model = model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())

    def call() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            loss, _ = model(drawn_batch)
        loss.sum().backward()

    return call
