"""The digest of a data set: what it does not see, what it does, and that files are read once."""

import dataclasses
import json
import os
import shutil
import types
from pathlib import Path

import pytest
import yaml
from PIL import Image

from foveal import UserError

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from foveal.hosts import Contents, contents
from foveal.hosts.ultralytics import dataset
from foveal.study.demo import draw_data

TABLE = {"train": "images/train", "val": "images/val", "test": "images/test", "names": ["ant", "bee"]}


def write_data(root: Path, **changed) -> Path:
    """A data set of files that only look like images; the second image of a split has no label file."""
    for split, index in ((s, i) for s in ("train", "val", "test") for i in range(2)):
        for part, suffix, content in (("images", ".jpg", f"image {split} {index}"), ("labels", ".txt", "0 .5 .5 1 1")):
            file = root / part / split / f"{index}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if part == "images" or index == 0:
                file.write_text(content)
    table = {key: value for key, value in {**TABLE, **changed}.items() if value is not None}
    (root / "data.yaml").write_text(yaml.safe_dump(table))
    return root / "data.yaml"


@pytest.fixture
def data(tmp_path) -> Path:
    return write_data(tmp_path / "data")


def digest(data: Path, cache: Path | None = None) -> Contents:
    return contents(dataset.Data(str(data)), cache or data.parent.parent / "fresh" / "none.json")


@pytest.fixture(autouse=True)
def fresh(tmp_path):
    (tmp_path / "fresh").mkdir()


def test_a_data_set_that_is_moved_copied_or_touched_is_the_same(data, tmp_path, monkeypatch):
    before = contents(dataset.Data(str(data)), tmp_path / "cache.json")
    assert before.files.keys() == {
        *(f"images/{s}/{i}.jpg" for s in dataset.SPLITS for i in range(2)),
        *(f"labels/{s}/{i}.txt" for s in dataset.SPLITS for i in range(2)),
    }
    assert before.files["labels/val/1.txt"] == ""
    copied = shutil.copytree(data.parent, tmp_path / "deeper" / "copy")
    assert contents(dataset.Data(str(copied / "data.yaml")), tmp_path / "another.json") == before
    os.utime(data.parent / "images/train/0.jpg", (1, 1))
    assert contents(dataset.Data(str(data)), tmp_path / "cache.json") == before
    moved = data.parent.rename(tmp_path / "moved")
    for cache in ("cache.json", "third.json"):
        assert contents(dataset.Data(str(moved / "data.yaml")), tmp_path / cache) == before
    (tmp_path / "link").symlink_to(moved)
    assert contents(dataset.Data(str(tmp_path / "link" / "data.yaml")), tmp_path / "sixth.json") == before
    monkeypatch.chdir(moved)
    assert contents(dataset.Data("data.yaml"), tmp_path / "fourth.json") == before
    assert before.difference(before) == ""
    write_data(moved, names={0: "ant", 1: "bee"}, path=str(moved))
    assert contents(dataset.Data(str(moved / "data.yaml")), tmp_path / "fifth.json") == before


CHANGES = {
    "labels/train/0.txt": lambda root: (root / "labels/train/0.txt").write_text("1 .5 .5 1 1"),
    "images/test/1.jpg": lambda root: (root / "images/test/1.jpg").write_bytes(b"image test 2"),
    "images/val/2.jpg and 1 more": lambda root: (root / "images/val/2.jpg").write_bytes(b"new"),
    "images/val/1.jpg and 1 more": lambda root: (root / "images/val/1.jpg").unlink(),
    "labels/val/0.txt": lambda root: (root / "labels/val/0.txt").unlink(),
    "labels/val/1.txt": lambda root: (root / "labels/val/1.txt").touch(),
    "images/train/0.jpg and 3 more": lambda root: (
        (root / "images/train").rename(root / "images/train2") and write_list(root, "images/train2")
    ),
    "the classes or splits": lambda root: write_data(root, names=["bee", "ant"]),
    "images/test/0.jpg and 3 more": lambda root: write_data(root, test=None),
}


def write_list(root: Path, folder: str) -> None:
    """Name the training images one by one."""
    (root / "list.txt").write_text("".join(f"./{folder}/{index}.jpg\n" for index in range(2)))
    table = yaml.safe_load((root / "data.yaml").read_text())
    (root / "data.yaml").write_text(yaml.safe_dump({**table, "train": "list.txt"}))


@pytest.mark.parametrize("named", CHANGES)
def test_a_change_of_the_data_is_seen_and_named(data, tmp_path, named):
    before = contents(dataset.Data(str(data)), tmp_path / "cache.json")
    CHANGES[named](data.parent)
    after = contents(dataset.Data(str(data)), tmp_path / "cache.json")
    assert after.digest != before.digest
    if named == "images/train/0.jpg and 3 more":  # and as many new ones
        named = "images/train/0.jpg and 7 more"
    assert after.difference(before) == before.difference(after) == named
    assert contents(dataset.Data(str(data)), tmp_path / "another.json") == after


def test_a_list_of_images_is_the_same_as_their_folder(data, tmp_path):
    before = digest(data)
    write_list(data.parent, "images/train")
    assert digest(data) == before


def test_images_are_those_that_the_host_reads(data, monkeypatch):
    """Below folders through links and without hidden files, as a Mac's archives have them; in lists of every kind."""
    root = data.parent
    for name in ("._0.jpg", "notes.md", "2.PNG"):
        (root / "images/train" / name).write_text(name)
    (root / "elsewhere").mkdir()
    (root / "elsewhere/3.bmp").write_text("far")
    (root / "images/train/linked").symlink_to(root / "elsewhere")
    listed = ["./images/val/1.jpg", str(root / "images/test/0.jpg"), "data/images/val/0.jpg", "./images/val/x.md", ""]
    (root / "清单.txt").write_text("\ufeff" + "\n".join(listed), encoding="utf-8")
    monkeypatch.chdir(root.parent)
    found = dataset.Data(str(write_data(root, train=["images/train", "清单.txt"])))
    images = [str(image) for image in found.images("train")]
    assert len(images) == 7
    reader = types.SimpleNamespace(prefix="", fraction=1.0)
    assert sorted(images) == dataset.YOLODataset.get_img_files(reader, found._found["train"])


def test_splits_that_are_exchanged_are_a_change(data):
    before = digest(data)
    write_data(data.parent, train="images/val", val="images/train")
    assert digest(data).digest != before.digest


def test_only_what_may_have_changed_is_read_again(data, tmp_path, monkeypatch):
    reads, read_bytes = [], Path.read_bytes

    def noting(path: Path) -> bytes:
        if path.suffix in (".jpg", ".txt"):  # what is written is read back, too
            reads.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", noting)
    cache = tmp_path / "cache.json"
    before = contents(dataset.Data(str(data)), cache)
    assert len(reads) == 9
    kept = cache.read_bytes()
    reads.clear()
    assert contents(dataset.Data(str(data)), cache) == before
    assert reads == []
    os.utime(data.parent / "images/val/0.jpg", (5, 5))
    assert contents(dataset.Data(str(data)), cache) == before
    assert contents(dataset.Data(str(data)), cache) == before
    assert reads == ["0.jpg"]
    # The same size at another time is read; what a changed cache says is no file of ours.
    (data.parent / "images/val/0.jpg").write_text("image val 7")
    os.utime(data.parent / "images/val/0.jpg", (6, 6))
    assert contents(dataset.Data(str(data)), cache).difference(before) == "images/val/0.jpg"
    reads.clear()
    for damaged in (
        b"",
        b"[]",
        b"5",
        b"null",
        kept[:50],
        b"\xff",
        b'{"images/val/0.jpg": 5}',
        b'{"images/val/0.jpg": []}',
    ):
        cache.write_bytes(damaged)
        assert contents(dataset.Data(str(data)), cache).files.keys() == before.files.keys()
        assert json.loads(cache.read_text()).keys() == json.loads(kept).keys()
    one = {name: [*stamp[:2], 5] for name, stamp in json.loads(cache.read_text()).items()}
    for wrong in (one, {name: stamp[:2] for name, stamp in one.items()}):
        cache.write_text(json.dumps(wrong))
        assert contents(dataset.Data(str(data)), cache).difference(before) == "images/val/0.jpg"


def test_data_that_cannot_be_read(data, tmp_path):
    with pytest.raises(UserError, match="cannot be used"):
        digest(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match=r"does not exist; give the path of one, such as my\.yaml"):
        digest(tmp_path / "nowhere.yaml")
    write_data(data.parent, train="images/nowhere")
    with pytest.raises(UserError, match=r"the data set .*data\.yaml' cannot be read: .*nowhere"):
        digest(data)
    write_data(data.parent, val="images/nowhere")
    with pytest.raises(UserError, match=r"cannot be used: .*nowhere'; check the paths in it"):
        digest(data)
    write_data(data.parent, path=".")  # which is not the file's folder
    with pytest.raises(UserError, match=r"cannot be used: .*; path: \. in it is meant from the current folder, or"):
        digest(data)
    write_data(data.parent, path=".", download="https://localhost/x.zip")
    with pytest.raises(UserError, match=r"from the file's own folder; foveal study run also downloads"):
        digest(data)
    write_data(data.parent)
    (data.parent / "labels/train/1.txt").mkdir()  # unreadable whoever asks
    with pytest.raises(UserError, match=r"cannot be read: .*1\.txt"):
        digest(data)


def test_difference_names_the_first_of_several():
    one = Contents("a", {"x": "1", "y": "2"})
    assert dataclasses.replace(one, digest="b").difference(one) == "the classes or splits"
    assert Contents("b", {"x": "1", "z": "2"}).difference(one) == "y and 1 more"


# Classifiers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def animals(tmp_path) -> Path:
    """A folder for classifiers, three files that only look like images in each class of train and test."""
    for split, name, index in ((s, n, i) for s in ("train", "test") for n in ("bee", "ant") for i in range(3)):
        file = tmp_path / "animals" / split / name / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{split} {name} {index}")
    return tmp_path / "animals"


def test_a_folder_for_classifiers_is_described_like_a_data_file(animals):
    found = dataset.described(str(animals))
    assert found["names"] == {0: "ant", 1: "bee"}
    assert (found["path"], found["train"], found["val"]) == (animals, animals / "train", None)
    assert [file.relative_to(animals).as_posix() for file in dataset.Data(str(animals)).images("test")] == [
        *(f"test/{name}/{index}.png" for name in ("ant", "bee") for index in range(3)),
    ]
    assert dataset.Data(str(animals)).has_labels("test")
    assert not dataset.Data(str(animals)).has_labels("val")
    data = dataset.Data(str(animals))
    photographs = data.photographs(data.images("test"))
    assert [photographs.name(file) for file in photographs.files[2:4]] == ["ant/2.png", "bee/0.png"]


def test_an_image_that_moves_to_another_class_changes_the_digest(animals, tmp_path):
    before = contents(dataset.Data(str(animals)), tmp_path / "cache.json")
    assert before.files.keys() == {
        *(f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("ant", "bee") for i in range(3)),
    }
    (animals / "train/ant/0.png").rename(animals / "train/bee/3.png")
    assert "train/ant/0.png" in contents(dataset.Data(str(animals)), tmp_path / "cache.json").difference(before)
    assert contents(dataset.Data(str(animals)), tmp_path / "cache.json").digest != before.digest


def test_what_is_no_folder_for_classifiers(animals, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("ultralytics.data.utils.download", lambda *args, **_: asked.append(args))
    (animals / "test/cat").mkdir()
    with pytest.raises(UserError, match="test has other classes than train"):
        dataset.described(str(animals))
    (animals / "train").rename(animals / "training")
    with pytest.raises(UserError, match="it has no folder 'train'"):
        dataset.described(str(animals))
    with pytest.raises(UserError, match="'not-here' cannot be used"):
        dataset.described("not-here", download=False)
    assert not asked


def test_a_plan_and_its_folder_may_be_called_like_the_data(animals, tmp_path):
    assert dataset.beside("animals", tmp_path) == str(animals)
    (tmp_path / "imagenet").mkdir()
    assert dataset.beside("imagenet", tmp_path) == "imagenet"
    (tmp_path / "coco.yaml").write_text("model: yolo11n.yaml\narms: [ema]\n")
    assert dataset.beside("coco.yaml", tmp_path) == "coco.yaml"
    (tmp_path / "coco.yaml").write_text("names: [arms]\ntrain: a\nval: b\n")
    assert dataset.beside("coco.yaml", tmp_path) == str(tmp_path / "coco.yaml")


# What is named and not there, and what the host refuses ---------------------------------------------------------------


@pytest.fixture
def drawn(tmp_path) -> Path:
    """Drawn images with labels that the host reads."""
    return draw_data(tmp_path / "drawn", train=4, val=2)


def renamed(data: Path, **changed) -> str:
    """The same data file with other values, from another file, so that nothing is known of it."""
    target = data.with_name("other.yaml")
    target.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), **changed}))
    return str(target)


@pytest.mark.parametrize("test", ["../test/images", "images/test", ["images/val", "images/nowhere"], "nowhere.txt"])
def test_a_test_split_that_is_not_there_is_none(test, drawn):
    data = renamed(drawn, test=test)
    found = dataset.described(data)
    assert found["test"] is None
    assert Path(found["absent"]).name in ("images", "test", "nowhere", "nowhere.txt")
    assert dataset.absent_test(data) == found["absent"]
    assert not dataset.Data(data).has_labels("test")
    assert contents(dataset.Data(data), drawn.parent / "digests.json").digest == digest(drawn).digest


@pytest.mark.parametrize("test", [None, "images/val", ["images/val", "images/train"]])
def test_a_test_split_that_is_there_or_not_named_is_not_missed(test, drawn):
    data = renamed(drawn, test=test)
    assert dataset.absent_test(data) is None
    assert bool(dataset.described(data).get("test")) is (test is not None)


def test_of_data_that_are_not_here_nothing_is_missed():
    assert dataset.absent_test("nowhere.yaml") is None


OUTSIDE = "0 1.2 0.5 0.3 0.3\n"


def test_images_that_the_host_leaves_out_are_counted(drawn):
    first = drawn.parent / "labels/train/0001.txt"
    first.write_text(first.read_text() + OUTSIDE)
    (drawn.parent / "images/train/0003.png").write_bytes(b"no image")
    for _ in range(2):  # by the host's own scan, and from its cache
        found = dataset.Data(str(drawn)).scan()
        assert found.keys() == {"train"}
        assert (found["train"].count, found["train"].of, found["train"].first) == (2, 4, "0001.png")
        assert "1.2" in found["train"].reason
        assert str(found["train"]).startswith("2 of 4 images, 0001.png for example: ")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_of_which_no_image_is_left_is_refused(split, drawn):
    for file in (drawn.parent / "labels" / split).glob("*.txt"):
        file.write_text(OUTSIDE)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"no image of {split} in .* refuses all \d, 0000.png for example: .*1\.2"):
            dataset.Data(str(drawn)).scan()
    others = {"train", "val"} - {split}
    assert dataset.Data(str(drawn)).scan(others) == {}


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_an_object_is_refused(split, drawn):
    for file in (drawn.parent / "labels" / split).glob("*.txt"):
        file.write_text("")
    with pytest.raises(UserError, match=rf"no image of {split} in .* has an object, and nothing .*; label images of"):
        dataset.Data(str(drawn)).scan()


def test_classes_beyond_the_names_are_refused_unless_they_are_one(drawn):
    for file in (drawn.parent / "labels").rglob("*.txt"):
        file.write_text("7 0.5 0.5 0.3 0.3\n")
    assert dataset.Data(str(drawn)).scan(single_cls=True) == {}
    for cache in drawn.parent.rglob("*.cache"):  # older hosts do not see that this differs
        cache.unlink()
    with pytest.raises(UserError, match="no image of train"):
        dataset.Data(str(drawn)).scan()


def test_a_classifiers_image_that_cannot_be_read_is_counted(tmp_path):
    for split, name in ((s, n) for s in ("train", "val") for n in ("ant", "bee")):
        folder = tmp_path / "insects" / split / name
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.png")
    (tmp_path / "insects/train/bee/1.png").write_bytes(b"no image")
    found = dataset.Data(str(tmp_path / "insects")).scan()
    assert {split: (of.count, of.of, of.first) for split, of in found.items()} == {"train": (1, 4, "1.png")}


@pytest.mark.host
def test_other_splits_read_the_same_images_through_links_and_leave_nothing_beside_them(tmp_path):
    """Images of two folders with the same names, in splits of both, as the host itself reads them."""
    draw_data(tmp_path / "data", train=6, val=3)
    data, folder = dataset.Data(str(tmp_path / "data/data.yaml")), tmp_path / "study" / "folds" / "0-1"
    files = [*data.images("train"), *data.images("val")]
    splits = {
        "train": [files[0], files[1], files[4], files[6], files[8]],
        "val": [files[2], files[3], files[5], files[7]],
    }
    again = [dataset.divided(data, splits, folder) for _ in range(2)]
    assert again == [str(folder / "data.yaml")] * 2
    found = dataset.Data(again[0])
    assert (found.names, found.splits) == (data.names, ("train", "val"))
    for split, images in splits.items():
        listed = found.images(split)
        assert [file.resolve() for file in listed] == [file.resolve() for file in images]
        assert [file.read_text() for file in found.labels(listed)] == [file.read_text() for file in data.labels(images)]
        known = found.photographs(listed)
        assert [file.name for file in known.files] == [file.name for file in images]
        read = dataset._Verified(found._found[split], data=found._found, task="detect")
        assert [Path(of["im_file"]).resolve() for of in read.labels] == [file.resolve() for file in images]
        assert [len(of["cls"]) for of in read.labels] == [
            len(file.read_text().split("\n")) - 1 for file in data.labels(images)
        ]
    assert found.scan(("train", "val")) == {}
    assert not list((tmp_path / "data").rglob("*.cache"))
    assert len(list(folder.rglob("*.cache"))) == 2
    assert {file.name for file in folder.rglob("*") if not file.is_dir()} <= {
        *("data.yaml", "train.txt", "val.txt", "000.cache"),
        *(file.name for file in files),
        *(file.with_suffix(".txt").name for file in files),
    }
    shutil.move(tmp_path / "study", tmp_path / "data" / "study")
    moved = dataset.Data(str(tmp_path / "data/study/folds/0-1/data.yaml"))
    assert not any(file.exists() for file in moved.images("train"))
    dataset.divided(data, splits, tmp_path / "data/study/folds/0-1")  # the links lead to where the images are now
    assert moved.scan(("train", "val")) == {}


def test_classes_of_images_are_read_from_their_labels(data, tmp_path):
    found = dataset.Data(str(data))
    (data.parent / "labels/train/0.txt").write_text("1 .5 .5 1 1\n0 .5 .5 1 1\nx\n\n2.0 .5 .5 1 1\n")
    assert found.classes(found.images("train")) == [{0, 1, 2}, set()]
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / "animals" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "animals" / split / name / "0.png")
    with pytest.raises(UserError, match="cannot be split anew: classifiers read whole folders"):
        dataset.Data(str(tmp_path / "animals")).classes([])
