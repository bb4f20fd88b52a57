"""The real data, where it exists."""

from pathlib import Path

from PIL import Image

SHARED = Path(__file__).parents[3] / "shared" / "data"


def unpack_cifar100(target: Path, classes: int = 100, each: int = 100) -> Path:
    """The slice of CIFAR-100 as a folder for classifiers, with so many classes and images of each in each split."""
    for split in ("train", "test"):
        for mosaic in sorted((SHARED / "cifar100_subset" / split).glob("*.webp"))[:classes]:
            folder = target / split / mosaic.stem
            folder.mkdir(parents=True)
            with Image.open(mosaic) as tiles:
                for tile in range(each):
                    row, column = divmod(tile, 10)
                    place = (32 * column, 32 * row, 32 * column + 32, 32 * row + 32)
                    tiles.crop(place).save(folder / f"{tile:02}.png")
    return target
