"""A machine for the code that Triton compiles, so that it runs where there is no GPU: PTX, thread by thread.

The threads of a program go on in step: always those that are furthest behind. Memory knows who wrote and read each byte
since the last barrier, so that it is told what an interpreter of Triton cannot see: one thread reads what another has
written with no barrier between, or writes what another has; threads write different numbers to one place; an access
is not aligned, or outside of its tensor. Programs of a launch may run in any order: they must not share what they
write. It knows the instructions that EMA's kernels are made of, and their numbers, not their time.
"""

import ctypes
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

WARP = 32
TYPES = {"pred": np.bool_, "f16": np.float16, "f32": np.float32}
TYPES |= {
    f"{kind}{8 * size}": np.dtype(f"{'i' if kind == 's' else 'u'}{size}") for kind in "bsu" for size in (1, 2, 4, 8)
}
LIMIT = 2_000_000  # instructions of a program, beyond which it hangs


class Fault(Exception):
    """What no GPU would do, or what this machine does not know."""


class Instruction(NamedTuple):
    guard: str  # a predicate, with ! before it if it must not hold
    parts: tuple[str, ...]  # of its name
    operands: tuple[str, ...]


@dataclass
class Code:
    """A kernel, read from PTX."""

    parameters: list[str]
    threads: int
    registers: dict[str, str] = field(default_factory=dict)  # types by name
    labels: dict[str, int] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)


def read(ptx: str) -> Code:
    """The only kernel of a text."""
    head, body = ptx.split(".visible .entry", 1)[1].split(")", 1)
    code = Code(re.findall(r"(\w+_param_\d+)", head), int(re.search(r"\.(?:reqntid|maxntid) (\d+)", body)[1]))
    for raw in body.partition("\n\t.section")[0].splitlines():
        line = re.sub(r"[{]\s*(?=\.reg|$)", "", raw.split("//")[0].replace("\t", " ").strip()).strip()
        for kind, names in re.findall(r"\.reg \.(\w+) +([^;]+);", line):
            if counted := re.fullmatch(r"(%\w+)<(\d+)>", names):
                code.registers |= {f"{counted[1]}{n}": kind for n in range(int(counted[2]))}
            else:
                code.registers |= dict.fromkeys(names.replace(" ", "").split(","), kind)
        if label := re.match(r"(\$\w+):", line):
            code.labels[label[1]] = len(code.instructions)
            continue
        for text in re.sub(r"\.reg [^;]*;", "", line).split(";")[:-1]:
            guard, name, rest = re.fullmatch(r"(?:@(!?%\w+) +)?([\w.:]+) *(.*)", text.strip()).groups()
            if not name.startswith("."):
                operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest)
                code.instructions.append(Instruction(guard or "", tuple(name.split(".")), tuple(operands)))
    return code


class Memory:
    """Bytes, and for each of them who wrote and read it last, and in which interval between barriers."""

    def __init__(self, name: str, start: int, data: np.ndarray):
        self.name, self.start, self.data = name, start, data
        self.writer, self.reader = (np.full(len(data), -1) for _ in range(2))  # threads of the whole launch
        self.written, self.seen = (np.full((len(data), 2), -1) for _ in range(2))  # in intervals of block and warp

    def load(self, at: np.ndarray, threads: np.ndarray, now: np.ndarray, block: int) -> tuple[np.ndarray, str]:
        """The bytes, and what is wrong with loading them."""
        wrong = self._clash(self.writer[at], self.written[at], threads, now, block).any()
        again = (self.seen[at, 0] == now[:, None, 0]) & (self.reader[at] != threads[:, None])
        self.reader[at] = np.where(again & (self.reader[at] >= 0), -2, threads[:, None])  # -2: several
        self.seen[at] = now[:, None]
        return self.data[at], f"{self.name} is read where another thread writes" if wrong else ""

    def store(self, at: np.ndarray, threads: np.ndarray, now: np.ndarray, block: int, values: np.ndarray) -> str:
        """Store bytes; what is wrong with that."""
        new = self.data[at] != values
        wrong = self._clash(self.writer[at], self.written[at], threads, now, block) & new
        wrong |= self._clash(self.reader[at], self.seen[at], threads, now, block) & new
        self.data[at] = values
        wrong |= self.data[at] != values  # threads of one instruction
        self.writer[at], self.written[at] = np.broadcast_to(threads[:, None], at.shape), now[:, None]
        return f"{self.name} is written where another thread reads or writes" if wrong.any() else ""

    def _clash(
        self, other: np.ndarray, when: np.ndarray, threads: np.ndarray, now: np.ndarray, block: int
    ) -> np.ndarray:
        mine, now = threads[:, None], now[:, None]
        warps = (other // WARP != mine // WARP) | (when[..., 1] == now[..., 1])
        within = (when[..., 0] == now[..., 0]) & (other != mine) & (warps | (other == -2))
        return within | ((other >= 0) & (other // block != mine // block) & (self.name != "shared memory"))


class Machine:
    """Runs a launch.

    Args:
        ptx: its code.
        shared: bytes of shared memory.
        arguments: tensors on the CPU, by the names of the kernel's parameters, and numbers.
    """

    def __init__(self, ptx: str, shared: int, arguments: dict[str, object]):
        self.code, self.shared, self.said = read(ptx), shared, set()
        self.values = dict(zip(self.code.parameters, arguments.values(), strict=False))
        found = {}
        for name, tensor in arguments.items():
            if torch.is_tensor(tensor) and tensor.numel():
                size = tensor.numel() * tensor.element_size()
                data = np.frombuffer((ctypes.c_uint8 * size).from_address(tensor.data_ptr()), np.uint8)
                found.setdefault(tensor.data_ptr(), Memory(name, tensor.data_ptr(), data))
        self.tensors = [found[start] for start in sorted(found)]
        self.starts = np.array(sorted(found))
        self.interval = 0

    def run(self, programs: int) -> set[str]:
        """Run so many programs; what is wrong with how they use memory."""
        for number in range(programs):
            self._block(number)
        return self.said

    def _block(self, number: int) -> None:
        count = self.code.threads
        self.number, self.threads, self.place = number, number * count + np.arange(count), np.zeros(count, np.int64)
        # What nobody has written is no zero.
        self.registers = {
            name: np.full(count, 0xDEADBEEFDEADBEEF).astype(f"u{np.dtype(TYPES[kind]).itemsize}").view(TYPES[kind])
            for name, kind in self.code.registers.items()
        }
        self.local = Memory("shared memory", 0, np.full(self.shared, 0xAB, np.uint8))
        self.interval += 1
        self.now = np.full((count, 2), (self.interval, 0))
        ended, waits = (np.zeros(count, np.bool_) for _ in range(2))
        for _ in range(LIMIT):
            if ended.all():
                return
            if (ended | waits).all():
                if ended.any() or len({*self.place}) > 1:
                    raise Fault("threads wait at different barriers")
                self.interval += 1
                waits[:], self.now[:, 0], self.place = False, self.interval, self.place + 1
            behind = np.where(ended | waits, len(self.code.instructions), self.place)
            here = behind == behind.min()
            guard, parts, operands = self.code.instructions[behind.min()]
            run = here & (self.registers[guard.lstrip("!")] ^ (guard[0] == "!")) if guard else here
            if parts[0] == "ret":
                ended |= run
            elif parts[:2] == ("bar", "sync"):
                waits |= run
                continue
            elif parts[0] != "bra":
                self._step(parts, operands, run)
            target = self.code.labels[operands[0]] if parts[0] == "bra" else 0
            self.place = np.where(run & (parts[0] == "bra"), target, self.place + here)
        raise Fault("it hangs")

    def _step(self, parts: Sequence[str], operands: Sequence[str], run: np.ndarray) -> None:
        name = parts[0]
        if parts[:2] == ("ld", "param"):
            value = self.values.get(operands[1].strip("[]"), 0)  # Triton's own come last, and are not used
            value = value.data_ptr() if torch.is_tensor(value) else value
            kind = np.float32 if isinstance(value, float) else np.int64
            self._put(operands[0], np.full(len(run), value, kind), run, parts[-1])
        elif name in ("ld", "st"):
            self._access(parts, operands, run)
        elif name in ("ldmatrix", "stmatrix"):
            self._matrix(parts, operands, run)
        elif parts[:3] == ("bar", "warp", "sync"):
            self.now[run, 1] += 1
        elif name == "shfl":
            self._put(operands[0], self._shuffled(parts, operands, run), run)
        elif name == "mov":
            self._put_parts(operands[0], self._parts(operands[1], parts[-1]), run)
        elif name == "cvt":
            self._put(operands[0], _converted(parts, [self._get(o, parts[-1]) for o in operands[1:]]), run)
        else:
            self._put(operands[0], self._computed(parts, operands[1:]), run)

    def _get(self, operand: str, kind: str) -> np.ndarray:
        """An operand's bits as numbers of a type."""
        count, bf16 = len(self.threads), kind == "bf16"
        into = np.dtype(TYPES["u16" if bf16 else kind])
        if operand in self.registers:
            bits = self.registers[operand]
        elif operand in ("%tid.x", "%ctaid.x"):
            bits = (np.arange(count) if operand == "%tid.x" else np.full(count, self.number)).astype(np.uint32)
        elif operand == "global_smem":
            bits = np.zeros(count, np.uint64)
        else:
            number = int(operand[2:], 16) if operand.startswith("0f") else int(operand.rstrip("U"), 0)
            bits = np.full(count, number % 2**64, np.uint64)
        if into == np.bool_:
            return bits.astype(np.bool_)
        bits = _bits(bits).astype(f"u{into.itemsize}")
        return (bits.astype(np.uint32) << 16).view(np.float32) if bf16 else bits.view(into)

    def _put(self, name: str, value: np.ndarray, run: np.ndarray, kind: str = "") -> None:
        name = name.split("|")[0]
        if value.dtype == np.float32:  # a NaN has one pattern of bits on a GPU
            value = np.where(np.isnan(value), np.uint32(0x7FFFFFFF), value.view(np.uint32))
        old = self.registers[name]
        bits = value if old.dtype == np.bool_ else _bits(value).astype(_bits(old).dtype).view(old.dtype)
        self.registers[name] = np.where(run, bits, old)

    def _parts(self, operand: str, kind: str) -> np.ndarray:
        """The bytes of an operand, or of several in braces that make one, [threads, bytes]."""
        names = operand.strip("{} ").replace(" ", "").split(",")
        if kind == "pred":
            return self._get(operand, kind)[:, None]
        width = f"b{int(kind[1:]) // len(names)}"
        return np.concatenate([_bytes(self._get(name, width)) for name in names], 1)

    def _put_parts(self, operand: str, data: np.ndarray, run: np.ndarray) -> None:
        names = operand.strip("{} ").replace(" ", "").split(",")
        if data.dtype == np.bool_:
            return self._put(operand, data[:, 0], run)
        for name, part in zip(names, np.split(data, len(names), 1), strict=True):
            if name != "_":
                self._put(name, np.ascontiguousarray(part).view(f"u{part.shape[1]}")[:, 0], run)
        return None

    def _address(self, operand: str) -> np.ndarray:
        base, _, offset = operand.strip("[] ").replace(" ", "").partition("+")
        kind = self.code.registers.get(base, "b64")
        return self._get(base, kind).astype(np.int64) + int(offset or 0)

    def _places(
        self, space: str, address: np.ndarray, run: np.ndarray
    ) -> Iterator[tuple[Memory, np.ndarray, np.ndarray]]:
        """Memories, offsets in them, and the threads that have these."""
        chosen = np.flatnonzero(run)
        if space == "shared":
            yield self.local, address[chosen], chosen
            return
        index = np.searchsorted(self.starts, address[chosen], "right") - 1
        for n in {*index.tolist()}:
            yield self.tensors[n], address[chosen][index == n] - self.tensors[n].start, chosen[index == n]

    def _access(self, parts: Sequence[str], operands: Sequence[str], run: np.ndarray) -> None:
        loads = parts[0] == "ld"
        registers, place = operands if loads else operands[::-1]
        bits = int(parts[-1][1:]) * registers.count(",") + int(parts[-1][1:])
        address = self._address(place)
        if (address[run] % (bits // 8)).any():
            raise Fault(f"an access of {bits // 8} bytes that is not aligned")
        if "nc" in parts:
            self.said.add("loads that see no stores of the same launch")
        data = np.zeros((len(run), bits // 8), np.uint8) if loads else self._parts(registers, f"b{bits}")
        for memory, offsets, threads in self._places(parts[1], address, run):
            self._move(memory, offsets, threads, data, loads)
        if loads:
            self._put_parts(registers, data, run)

    def _move(self, memory: Memory, offsets: np.ndarray, threads: np.ndarray, data: np.ndarray, loads: bool) -> None:
        at, who = offsets[:, None] + np.arange(data.shape[1]), self.threads[threads]
        if ((at < 0) | (at >= len(memory.data))).any():
            raise Fault(f"an access outside of {memory.name}")
        if loads:
            data[threads], wrong = memory.load(at, who, self.now[threads], len(self.threads))
        else:
            wrong = memory.store(at, who, self.now[threads], len(self.threads), data[threads])
        self.said |= {wrong} - {""}

    def _matrix(self, parts: Sequence[str], operands: Sequence[str], run: np.ndarray) -> None:
        """8 x 8 numbers of 16 bits between shared memory, a row of 16 bytes at each address, and a word a thread."""
        loads = parts[0] == "ldmatrix"
        registers, place = operands if loads else operands[::-1]
        if not run.all():
            raise Fault("a matrix that is not moved by whole warps")
        thread, address, lane = np.arange(len(run)), self._address(place), np.arange(len(run)) % WARP
        for n, register in enumerate(registers.strip("{} ").replace(" ", "").split(",")):
            data = _bytes(self._get(register, "b32"))
            for half in (0, 1):
                column, row = 2 * (lane % 4) + half, lane // 4
                row, column = (column, row) if "trans" in parts else (row, column)
                offsets = address[thread - lane + 8 * n + row] + 2 * column
                self._move(self.local, offsets, thread, data[:, 2 * half : 2 * half + 2], loads)
            self._put_parts(register, data, run & loads)

    def _shuffled(self, parts: Sequence[str], operands: Sequence[str], run: np.ndarray) -> np.ndarray:
        if (run.reshape(-1, WARP).any(1) != run.reshape(-1, WARP).all(1)).any():
            raise Fault("a shuffle in which threads of a warp are missing")
        value, by, mask = (self._get(operand, "u32") for operand in operands[1:4])
        thread = np.arange(len(run))
        lane = thread % WARP
        segment = mask >> 8 & 31
        source = lane ^ by if parts[2] == "bfly" else (lane & segment) | (by & ~segment & 31)
        return value[thread - lane + source.astype(np.int64)]

    def _computed(self, parts: Sequence[str], operands: Sequence[str]) -> np.ndarray:
        name, kind = parts[0], parts[-1]
        if kind.endswith("x2"):  # two numbers in one register
            halves = [np.ascontiguousarray(self._parts(o, "b64")).view(np.float32) for o in operands]
            return np.ascontiguousarray(FLOATS[name](*halves).astype(np.float32)).view(np.uint64)[:, 0]
        if name == "selp":
            chosen = self._get(operands[2], "pred")
            return np.where(chosen, self._get(operands[0], kind), self._get(operands[1], kind))
        if name in ("shl", "shr", "bfe"):
            shifts = [self._get(operand, "u32") for operand in operands[1:]]
            return SHIFTS[name](self._get(operands[0], kind), *shifts)
        values = [self._get(operand, kind) for operand in operands]
        if name == "setp":
            return COMPARED[parts[1]](*values)
        if name == "prmt":
            return _permuted(*values)
        if parts[1] in ("wide", "hi"):
            long = kind[0] + str(2 * int(kind[1:]))
            product = values[0].astype(TYPES[long]) * values[1].astype(TYPES[long])
            product += self._get(operands[2], long) if len(operands) > 2 else 0
            return product if parts[1] == "wide" else (product >> int(kind[1:])).astype(TYPES[kind])
        return (FLOATS if values[0].dtype.kind == "f" else WHOLE)[name](*values)


def launch(ptx: str, shared: int, arguments: dict[str, object], programs: int) -> list[str]:
    """Run a launch on tensors of the CPU; what is wrong with how it uses memory, or with the code."""
    with np.errstate(all="ignore"):
        return sorted(Machine(ptx, shared, arguments).run(programs))


def _bits(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.bool_ else np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def _half(values: np.ndarray, kind: str) -> np.ndarray:
    """fp32 to the nearest fp16 or bf16, ties to even; as bits."""
    if kind.startswith("f"):
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32).astype(np.uint64)
    return np.where(np.isnan(values), 0x7FFF, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _converted(parts: Sequence[str], values: list[np.ndarray]) -> np.ndarray:
    into = parts[-2]
    if into.endswith("x2"):
        upper, lower = (_half(value, into).astype(np.uint32) for value in values)
        return upper << 16 | lower
    if into == "bf16":
        return _half(values[0], into)
    return values[0].astype(TYPES[into])


def _permuted(low: np.ndarray, high: np.ndarray, selector: np.ndarray) -> np.ndarray:
    source = np.concatenate([_bytes(low), _bytes(high)], 1)
    chosen = selector[:, None] >> np.arange(0, 16, 4, np.uint32) & 15
    found = np.take_along_axis(source, (chosen & 7).astype(np.int64), 1)
    return np.where(chosen & 8, np.where(found & 128, 255, 0), found).astype(np.uint8).view(np.uint32)[:, 0]


def _field(value: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    bits = _bits(value).astype(np.int64) >> start & ((1 << length.astype(np.int64)) - 1)
    negative = (value.dtype.kind == "i") & (bits >> (length.astype(np.int64) - 1) == 1)
    return np.where(negative, bits - (1 << length.astype(np.int64)), bits).astype(value.dtype)


def _right(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    last = 8 * value.itemsize - 1
    shifted = value >> np.minimum(by, last).astype(value.dtype)
    return np.where(by <= last, shifted, shifted if value.dtype.kind == "i" else 0).astype(value.dtype)


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.trunc(a.astype(np.float64) / b).astype(a.dtype)


_Function = Callable[..., np.ndarray]
SHIFTS: dict[str, _Function] = {
    "shl": lambda a, by: np.where(by < 8 * a.itemsize, a << by.astype(a.dtype), 0).astype(a.dtype),
    "shr": _right,
    "bfe": _field,
}
COMPARED: dict[str, _Function] = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
    "ne": lambda a, b: (a < b) | (a > b), "neu": np.not_equal, "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}  # fmt: skip
_BOTH: dict[str, _Function] = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative}
WHOLE: dict[str, _Function] = _BOTH | {
    "mad": lambda a, b, c: a * b + c, "div": _quotient, "min": np.minimum, "max": np.maximum, "not": np.invert,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
FLOATS: dict[str, _Function] = _BOTH | {
    "fma": lambda a, b, c: (a.astype(np.float64) * b + c).astype(a.dtype), "div": np.divide, "min": np.fmin,
    "max": np.fmax, "ex2": lambda a: np.exp2(a.astype(np.float64)).astype(a.dtype),
    "rsqrt": lambda a: (1 / np.sqrt(a.astype(np.float64))).astype(a.dtype),
}  # fmt: skip
