"""Slices of a study's images, read from whatever CSV people have."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from foveal import UserError
from foveal.hosts import Photographs
from foveal.study import Slices

NAMES = ["a.jpg", "b.jpg", "c.jpg"]


def read(folder: Path, text: str | bytes, files=NAMES) -> Slices:
    """The slices of a CSV in the folder of some images."""
    (folder / "images.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    photographs = Photographs([folder / "images/test" / file for file in files])
    data = SimpleNamespace(images=lambda split: photographs.files, photographs=lambda images: photographs)
    plan = SimpleNamespace(slices=str(folder / "images.csv"), split="test", dataset=data, text={"slices": "images.csv"})
    return Slices.of(plan)


DAY = {("time", "day"): [0, 2], ("time", "night"): [1]}
CAMERAS = {("camera", "2"): [1, 2], ("camera", "10"): [0]}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("name,time\na.jpg,day\nb.jpg,night\nc.jpg,day\n", DAY),
        ("\ufefftime;name\r\nday;a.jpg\r\nnight;b.jpg\r\nday;c.jpg", DAY),
        (" name ,\ttime\n a.jpg, day\n b.jpg,night \n\n ,\nc.jpg,day\n", DAY),
        (",time,file,\n0,day,images/test/a.jpg,\n1,night,images\\test\\b.jpg,\n2,day,./test/c.jpg\n", DAY),
        ("time\tname\nnight\tb.jpg\nday\ta.jpg\nday\tc.jpg\nnoon\tof another split.jpg", DAY),
        ("name,time\na.jpg,day\nb.jpg,\n", {("time", "day"): [0]}),
        ("name,camera,time\nb.jpg,2,night\nc.jpg,2,day\na.jpg,10,day\n", CAMERAS | DAY),
        ('name,time\na.jpg,"day, or night"\na.jpg,"day, or night"\n', {("time", "day, or night"): [0]}),
        ("id,name,time\n7,a.jpg,day\n7,b.jpg,night\n7,c.jpg,day", {("id", "7"): [0, 1, 2]} | DAY),
    ],
    ids=["plain", "semicolons", "spaces", "paths", "tabs", "no value", "two columns", "quotes", "names not first"],
)
def test_what_people_have_is_read(text, wanted, tmp_path):
    found = read(tmp_path, text)
    assert {label: np.flatnonzero(of).tolist() for label, of in zip(found.labels, found.inside, strict=True)} == wanted
    named = [label for label in found.labels if label[0] == "camera"]
    assert named in ([], [*CAMERAS]), "values stand in the order of the file"


def test_judged_images_are_known_by_their_names_also_where_some_are_left_out(tmp_path):
    found = read(tmp_path, "name,time\na.jpg,day\nb.jpg,night\nc.jpg,day\n")
    assert found.members(np.array(NAMES)).tolist() == [[True, False, True], [False, True, False]]
    assert found.members(np.array(["b.jpg", "c.jpg", "x.jpg"])).tolist() == [[False, True, False], [True, False, False]]
    # Two of one name are told apart by their folders and their order, and are nobody's where the order is lost.
    text = "file,time\nnight/a.jpg,night\nday/a.jpg,day\nb.jpg,day\n"
    found = read(tmp_path, text, ["day/a.jpg", "night/a.jpg", "b.jpg"])
    names = np.array([file.name for file in found.photographs.files])
    assert names.tolist() == ["b.jpg", "a.jpg", "a.jpg"]
    assert dict(zip(found.labels, found.members(names).tolist(), strict=True)) == {
        ("time", "night"): [False, False, True],
        ("time", "day"): [True, True, False],
    }
    assert found.members(names[:2]).any(0).tolist() == [True, False]
    # The longest name tells best.
    found = read(tmp_path, "file,time\na.jpg,day\nnight/a.jpg,night\n", ["day/a.jpg", "night/a.jpg"])
    assert found.inside.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the headings of .* are not one for each column: ; its first line"),
        (",\n,\n", "the headings of .* are not one for each column"),
        ("name,time,time\na.jpg,day,night", "the headings of .* are not one for each column: name, time, time"),
        ("name,time\nx.jpg,day\n", "names no image of test: 'x.jpg' for example, where an image is 'a.jpg'; its first"),
        ("name,time\n", "names no image of test: '' for example"),
        ("name\na.jpg\n", "has no categories beside the names in its column 'name'; its first line"),
        ("name,time\na.jpg,\nb.jpg,\n", "has no categories beside the names"),
        ("name,time\na.jpg,day\na.jpg,night\n", "has several lines with other values for 'a.jpg'; leave one"),
        (
            "name,time\na.jpg,day\nimages\\a.jpg,day,dusk\n",
            "has a line with more values than headings; write what holds",
        ),
        (b"name,time\na.jpg,\xff\n", "is no CSV in UTF-8: 'utf-8' codec can't decode"),
        ('name,time\na.jpg,"day', "is no CSV in UTF-8: unexpected end of data"),
    ],
)
def test_what_is_no_table_of_these_images_is_told_in_a_sentence(text, said, tmp_path):
    with pytest.raises(UserError, match=said):
        read(tmp_path, text)


def test_a_name_of_several_images_and_a_column_of_numbers_are_told_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"'a\.jpg' is the name of 2 images; write their folders before the names"):
        read(tmp_path, "name,time\na.jpg,day\n", ["day/a.jpg", "night/a.jpg"])
    files = [f"{number}.jpg" for number in range(31)]
    lines = [f"{file},{number}" for number, file in enumerate(files)]
    said = "has 31 values in its column 'seconds', more than 30; leave the column out of the file"
    with pytest.raises(UserError, match=said):
        read(tmp_path, "\n".join(["name,seconds", *lines]), files)
    assert len(read(tmp_path, "\n".join(["name,seconds", *lines[1:]]), files).labels) == 30
