"""Damaged and odd inputs, each drawn by a generator that is given: nests, texts, images and checkpoints."""

import copy
import datetime
import io
import itertools
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

ODD = [None, True, -1, 0, 1, 7, 0.5, float("nan"), float("inf"), 10**12, 10**30, "x" * 300, "\0", "a\nb", "é"]
ODD += ["", " ", "a", "../..", "nc", "ema", "1", "None", "[1", "photo.png", "tiny.pt", "C3k2+ema(groups=2)", "%s"]
ODD += [b"\xff", [], [[]], {}, {"a": 1}, [1, 2], [None], {1: {2: [3]}}, [-1, 1, "Conv", [8]], datetime.date(2026, 1, 2)]
# Each line nine of the line before: a few hundred bytes, and too much for anything that writes it out.
_LINES = (f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise("abcdefghij"))
BOMB = f"[&a [1, 1], {', '.join(_LINES)}]"
TEXTS = [b"", b"\n", b"\0", b"\xff\xfe\x00", b"null", b"[]", b"{}", b"7", b"text", b"a: b: c", b"a: &a [*a]"]
TEXTS += [b"\xef\xbb\xbf", b"[" * 5000, b"{a: " * 300, b"? [1]\n: 2", b"!!python/object:os.system [x]", b"\t- a"]
TEXTS += [b"a: 2026-99-99"]
TEXTS += [f"model: tiny.yaml\ndata: data/data.yaml\n{key}: &a [*a]".encode() for key in ("arms", "seeds", "backbone")]

MOST = 10**6  # the number of a case that is drawn freely


def tree(draw: random.Random, value: object) -> object:
    """The same nest of lists and dictionaries, but for one to three things."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return draw.choice(ODD)
        at, key = draw.choice(places)
        what = draw.randrange(6)
        if what == 0:
            del at[key]
        elif what == 1 and isinstance(at, dict):
            at[str(key) + "s"] = at.pop(key)
        elif what == 2:
            at[key] = [at[key]]
        elif what == 3 and isinstance(at, list):
            at.insert(key, copy.deepcopy(at[key]))
        else:
            at[key] = copy.deepcopy(draw.choice(ODD))
    return value


def _places(value: object):
    for key in range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ():
        yield value, key
        yield from _places(value[key])


def octets(draw: random.Random, content: bytes) -> bytes:
    """The same file, but cut short, with other bytes, a hole, or something added."""
    changed = bytearray(content)
    at = draw.randrange(len(content))
    length = draw.choice((1, 2, 4, 16, 200))
    match draw.randrange(6):
        case 0:
            return content[:at]
        case 1:
            for place in draw.choices(range(len(content)), k=length):
                changed[place] ^= 1 << draw.randrange(8)
        case 2:
            changed[at : at + length] = bytes(length)
        case 3:
            changed[at:at] = draw.randbytes(length)
        case 4:
            del changed[at : at + length]
        case 5:
            changed += draw.randbytes(length)
    return bytes(changed)


def written(draw: random.Random, number: int, file: Path) -> None:
    """A file of YAML or JSON with another text, as other bytes, or with something else in its nest."""
    content = file.read_bytes()
    if number < len(TEXTS):
        file.write_bytes(TEXTS[number])
        return
    read, write = (json.loads, _json) if file.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
    nest = read(content)
    if file.suffix == ".yaml" and number - len(TEXTS) < len(nest):
        key = list(nest)[number - len(TEXTS)]
        file.write_text(f"{yaml.safe_dump({**nest, key: None})}\n{key}: {BOMB}\n")
    elif draw.random() < 0.2:
        file.write_bytes(octets(draw, content))
    else:
        file.write_text(write(tree(draw, nest)))


def _json(value: object) -> str:
    return json.dumps(value, default=str)


# Images --------------------------------------------------------------------------------------------------------------


def _picture(name: str, mode: str, size=(40, 30), **more) -> Callable[[bytes, Path], Path]:
    def make(content: bytes, folder: Path) -> Path:
        with Image.open(io.BytesIO(content)) as image:
            image.convert("RGB").convert(mode).resize(size).save(folder / name, **more)
        return folder / name

    return make


def _bytes(name: str, content: bytes) -> Callable[[bytes, Path], Path]:
    def make(_, folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _declared(content: bytes, folder: Path) -> Path:
    """A PNG that says it is larger than memory."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    (folder / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body + content[33:])
    return folder / "huge.png"


def _turned(content: bytes, folder: Path) -> Path:
    with Image.open(io.BytesIO(content)) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert("RGB").resize((60, 30)).save(folder / "turned.jpg", exif=exif)
    return folder / "turned.jpg"


PICTURES = {
    "empty": _bytes("a.jpg", b""),
    "text": _bytes("a.jpg", b"a photograph"),
    "html": _bytes("a.png", b"<html></html>"),
    "suffix": _bytes("a.txt", b"text"),
    "no suffix": _bytes("none", b"text"),
    "one pixel": _picture("a.png", "RGB", (1, 1)),
    "one row": _picture("a.jpg", "RGB", (200, 1)),
    "one column": _picture("a.png", "RGB", (1, 200)),
    "palette": _picture("a.png", "P"),
    "bits": _picture("a.png", "1"),
    "grey and alpha": _picture("a.png", "LA"),
    "alpha": _picture("a.png", "RGBA"),
    "16 bits": _bytes("a.png", b""),
    "CMYK": _picture("a.jpg", "CMYK"),
    "progressive": _picture("a.jpg", "RGB", progressive=True),
    "TIFF": _picture("a.tiff", "RGB"),
    "floats": _picture("a.tif", "F"),
    "BMP as PNG": _picture("a.png", "RGB", format="BMP"),
    "WebP": _picture("a.webp", "RGB"),
    "GIF": _picture("a.gif", "P"),
    "declared": _declared,
    "turned": _turned,
}
PICTURES["16 bits"] = lambda content, folder: _saved(folder / "a.png", np.full((20, 30), 40000, np.uint16))


def _saved(file: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(file)
    return file


# Checkpoints ---------------------------------------------------------------------------------------------------------


def cut_or_flipped(draw: random.Random, file: Path) -> None:
    file.write_bytes(octets(draw, file.read_bytes()))


def repacked(draw: random.Random, file: Path) -> None:
    """One record is damaged, and the zip around it is sound."""
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice([name for name in records if name.endswith("data.pkl")] * 9 + list(records))
    if draw.random() < 0.2:
        del records[name]
    else:
        records[name] = octets(draw, records[name])
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def changed(draw: random.Random, file: Path) -> None:
    """Something else is stored where the model, or a part of it, was."""
    saved = torch.load(file, weights_only=False)
    model = saved["model"]
    odd = draw.choice(ODD)
    match draw.randrange(9):
        case 0:
            saved.pop(draw.choice(list(saved)))
        case 1:
            saved[draw.choice(list(saved))] = odd
        case 2:
            delattr(model, draw.choice([*vars(model)][-9:]))
        case 3:
            setattr(model, draw.choice(("yaml", "names", "args", "nc", "task", "stride", "save", "inplace")), odd)
        case 4:
            model.yaml = tree(draw, model.yaml)
        case 5:
            model.model._modules[draw.choice(list(model.model._modules))] = draw.choice(
                (nn.Conv2d(3, 3, 1), nn.Identity())
            )
        case 6:
            _one_tensor(draw, model)
        case 7:
            layer = draw.choice(list(model.modules()))
            setattr(layer, draw.choice(list(vars(layer))), odd)
        case 8:
            saved["model"] = draw.choice((model.state_dict(), model.model, torch.zeros(3), [model], None))
    torch.save(saved, file)


def _one_tensor(draw: random.Random, model: nn.Module) -> None:
    """Of another shape or kind, or missing, or one more, above all in the attention."""
    layers = [m for n, m in model.named_modules() if m._parameters and ("attention" in n or n.startswith("model.6"))]
    layer = draw.choice(layers or [m for m in model.modules() if m._parameters])
    name = draw.choice([key for key, value in layer._parameters.items() if value is not None])
    shape = layer._parameters[name].shape
    match draw.randrange(5):
        case 0:
            layer._parameters[name] = nn.Parameter(torch.zeros(*shape[:-1], shape[-1] + 1))
        case 1:
            layer._parameters[name] = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        case 2:
            del layer._parameters[name]
        case 3:
            layer._parameters["more"] = nn.Parameter(torch.zeros(2))
        case 4:
            layer._parameters[name] = nn.Parameter(torch.full(shape, float("nan")))


FOREIGN = [
    lambda file: file.unlink(),
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(b"PK\x03\x04"),
    lambda file: zipfile.ZipFile(file, "w").close(),
    lambda file: torch.save({}, file),
    lambda file: torch.save([], file),
    lambda file: torch.save({"model": {}}, file),
    lambda file: torch.save({"model": None, "ema": None}, file),
    lambda file: torch.save(nn.Conv2d(3, 3, 1), file),
    lambda file: torch.save({"model": nn.Conv2d(3, 3, 1)}, file),
    lambda file: torch.save({"state_dict": {}}, file),
    lambda file: torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1)), file),
    lambda file: torch.save({"model": 3}, file, _use_new_zipfile_serialization=False),
    lambda file: (file.unlink(), file.mkdir()),
    lambda file: np.savez(file.open("wb"), a=np.zeros(3)),
]
