"""Read the machine code of a cubin: opcodes per kernel and per loop, for assertions in tests."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .toolkit import require_nvdisasm

SECTION = re.compile(r"\s*\.section\s+\.text\.([\w$]+)")
LABEL = re.compile(r"(\.L_\w+):")
INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)")
PREDICATE_OPERAND = re.compile(r"BRA\S*\s+!?U?P\w+,")
BRANCH_TARGET = re.compile(r"`\((\.L_\w+)\)")
GLOBAL_ACCESS = r"(LDG|STG)\b"
REGISTER = re.compile(r"\bR(\d+)\b")
FP64 = re.compile(r"(DADD|DMUL|DFMA|DSETP|DMNMX)\b|\w.*\.F64\b|MUFU\..*64")


@dataclass(frozen=True)
class SassInstruction:
    """One machine instruction."""

    address: int
    opcode: str  # with its modifiers, such as LDG.E.128.CONSTANT
    text: str
    target: int | None = None  # of a branch
    conditional: bool = False  # runs where a predicate holds

    @property
    def width_bits(self) -> int:
        """Bits per lane of a load or store."""
        match = re.search(r"\.(?:U|S)?(8|16|64|128|256)\b", self.opcode)
        return int(match[1]) if match else 32


@dataclass(frozen=True)
class Listing:
    """The instructions of a kernel, or of a loop of it."""

    name: str
    instructions: tuple[SassInstruction, ...]

    def __len__(self) -> int:
        """Return the number of instructions."""
        return len(self.instructions)

    def matching(self, pattern: str | re.Pattern[str]) -> list[SassInstruction]:
        """Return the instructions whose opcode begins with a match of `pattern`."""
        return [i for i in self.instructions if re.match(pattern, i.opcode)]

    def count(self, pattern: str | re.Pattern[str]) -> int:
        """Return how many instructions `matching` finds."""
        return len(self.matching(pattern))

    @property
    def opcodes(self) -> Counter[str]:
        """How often each opcode, with its modifiers, occurs."""
        return Counter(i.opcode for i in self.instructions)

    def widths(self, opcode: str) -> Counter[int]:
        """Return how many `LDG`, `STG`, `LDS` or `STS` there are per width in bits."""
        return Counter(i.width_bits for i in self.matching(rf"{opcode}(\.|$)"))

    @property
    def fp64(self) -> int:
        """The number of double-precision instructions and conversions."""
        return self.count(FP64)

    @property
    def calls(self) -> int:
        """The number of calls, such as of 64-bit division."""
        return self.count(r"CALL\b")

    @property
    def local_memory(self) -> int:
        """The number of accesses to local memory: spills, and arrays indexed at run time."""
        return self.count(r"(LDL|STL)\b")

    @property
    def generic_memory(self) -> int:
        """The number of accesses whose state space the compiler could not tell."""
        return self.count(r"(LD|ST|ATOM)(\.|$)")

    def loads_in_flight(self) -> Counter[int]:
        """Return the most global loads, per width in bits, before the first use of any of them.

        A use is any mention of a register that is loaded: warps wait there. The instructions are
        taken in the order in which they stand.
        """
        most: Counter[int] = Counter()
        loaded: set[int] = set()
        ahead: Counter[int] = Counter()
        for i in self.instructions:
            named = [int(register) for register in REGISTER.findall(i.text)]
            is_load = i.opcode.startswith("LDG.")
            if loaded.intersection(named[1:] if is_load else named):
                loaded, ahead = set(), Counter()
            if is_load:
                loaded.update(range(named[0], named[0] + max(1, i.width_bits // 32)))
                ahead[i.width_bits] += 1
                most |= ahead
        return most

    def loops(self) -> list[Listing]:
        """Return the loops: from the target of each backward branch to the branch."""
        spans = {
            (i.target, i.address)
            for i in self.instructions
            if i.target is not None and i.target < i.address and i.opcode.startswith("BRA")
        }
        return [
            Listing(
                f"{self.name}[{begin:#x}:{end:#x}]",
                tuple(i for i in self.instructions if begin <= i.address <= end),
            )
            for begin, end in sorted(spans)
        ]

    def innermost_loops(self) -> list[Listing]:
        """Return the loops that contain no other loop."""
        return [loop for loop in self.loops() if len(loop.loops()) == 1]

    def common_path(self) -> Listing:
        """Return the listing without what a vote of the warp skips.

        That is what lies between a vote and the target of the next branch forward: compilers leave
        such a block where the source has it. The instructions that remain are the issue slots that
        a warp takes when it skips them all: each instruction takes one, whatever unit executes it.
        """
        kept: list[SassInstruction] = []
        voted, resume = False, 0
        for i in self.instructions:
            if i.address < resume:
                continue
            kept.append(i)
            voted = voted or i.opcode.startswith("VOTE")
            if voted and i.opcode.startswith("BRA") and (i.target or 0) > i.address:
                voted, resume = False, i.target or 0
        return Listing(self.name, tuple(kept))

    def cheapest_pass(self, *through: str) -> Listing:
        """Return the fewest instructions of a pass through the loop that this listing is.

        Each takes one issue slot. Branches may go either way, as long as every pattern of `through`
        is found in the text of some instruction on the way: the patterns name what must not be left
        out, such as the widest loads (a full tile) or a store that one thread makes for all.

        Raises:
            ValueError: There is no such pass.
        """
        code = self.instructions
        index = {i.address: k for k, i in enumerate(code)}
        met = [frozenset(p for p in through if re.search(p, i.text)) for i in code]
        start = (0, met[0])
        before: dict[_Place, _Place | None] = {start: None}
        frontier = [start]
        while frontier:  # breadth first: every instruction costs the same
            reached: list[_Place] = []
            for place in frontier:
                for address in _successors(code, place[0]):
                    if address == code[0].address and len(place[1]) == len(set(through)):
                        return Listing(self.name, tuple(code[k] for k, _ in _way(before, place)))
                    if address == code[0].address or address not in index:
                        continue
                    following = (index[address], place[1] | met[index[address]])
                    if following not in before:
                        before[following] = place
                        reached.append(following)
            frontier = reached
        raise ValueError(f"{self.name} has no pass through {through}")

    def main_loop(self) -> Listing:
        """Return the smallest loop around a widest access to global memory.

        Of several it is the one that moves most, then the longest: loops over a tail are narrower,
        or not unrolled. A loop inside of the main loop, over a tail again, counts as part of it.
        """
        loops = [loop for loop in self.loops() if loop.count(GLOBAL_ACCESS) > 0]
        if not loops:
            raise ValueError(f"{self.name} has no loop that accesses global memory")

        def widths(loop: Listing) -> list[int]:
            return [i.width_bits for i in loop.matching(GLOBAL_ACCESS)]

        widest = max(max(widths(loop)) for loop in loops)
        loops = [loop for loop in loops if max(widths(loop)) == widest]

        def holds_another(loop: Listing) -> bool:
            inside = set(loop.instructions)
            return any(other is not loop and inside > set(other.instructions) for other in loops)

        smallest = [loop for loop in loops if not holds_another(loop)]
        return max(smallest, key=lambda loop: (sum(widths(loop)), len(loop)))

    def summary(self) -> dict[str, int]:
        """Return the counts that say most; those that are zero are left out."""
        counts = {
            "instructions": len(self),
            **{f"ldg{bits}": n for bits, n in sorted(self.widths("LDG").items())},
            **{f"stg{bits}": n for bits, n in sorted(self.widths("STG").items())},
            "fp64": self.fp64,
            "calls": self.calls,
            "local": self.local_memory,
            "generic": self.generic_memory,
            "global_atomics": self.count(r"(ATOMG|RED|REDG)\b"),
            "shared_atomics": self.count(r"ATOMS\b"),
            "barriers": self.count(r"BAR\b"),
            "shuffles": self.count(r"SHFL\b"),
            "special_functions": self.count(r"MUFU\b"),
        }
        return {name: n for name, n in counts.items() if n}


# Where a pass through a loop stands: the number of the instruction, and the patterns met so far.
_Place = tuple[int, frozenset[str]]


def _successors(code: Sequence[SassInstruction], at: int) -> Iterator[int]:
    """Yield the addresses that may come after an instruction."""
    i = code[at]
    leaves = i.opcode.startswith(("BRA", "EXIT", "RET", "BRX"))
    if at + 1 < len(code) and (i.conditional or not leaves):
        yield code[at + 1].address
    if i.opcode.startswith("BRA") and i.target is not None:
        yield i.target


def _way(before: dict[_Place, _Place | None], end: _Place) -> list[_Place]:
    """Return the places from the first one to `end`."""
    way: list[_Place] = []
    place: _Place | None = end
    while place is not None:
        way.append(place)
        place = before[place]
    return way[::-1]


def read_sass(cubin: Path) -> dict[str, Listing]:
    """Return the listing of each kernel of a cubin, by mangled name."""
    text = subprocess.run(
        [str(require_nvdisasm()), "-c", str(cubin)], check=True, capture_output=True, text=True
    ).stdout
    return parse_sass(text)


def parse_sass(text: str) -> dict[str, Listing]:
    """Return the listing of each kernel in the output of `nvdisasm -c`."""
    raw: dict[str, list[tuple[int, str, str, bool]]] = {}
    labels: dict[str, tuple[str, int]] = {}
    name = ""
    pending: list[str] = []
    for line in text.splitlines():
        if match := SECTION.match(line):
            name, pending = match[1], []
            raw[name] = []
        elif match := LABEL.match(line.strip()):
            pending.append(match[1])
        elif name and (match := INSTRUCTION.match(line)):
            address = int(match[1], 16)
            labels.update(dict.fromkeys(pending, (name, address)))
            pending = []
            code = (match[3] + match[4]).rstrip(" ;")
            # BRA P0 branches where a predicate holds, BRA.DIV where threads have diverged.
            has_operand = PREDICATE_OPERAND.match(code) or code.startswith("BRA.DIV")
            raw[name].append((address, match[3], code, bool(match[2] or has_operand)))
    listings = {}
    for kernel, rows in raw.items():
        instructions = []
        for address, opcode, code, conditional in rows:
            target = BRANCH_TARGET.search(code)
            place = labels.get(target[1]) if target else None
            is_here = place is not None and place[0] == kernel
            instructions.append(
                SassInstruction(
                    address, opcode, code, place[1] if place and is_here else None, conditional
                )
            )
        listings[kernel] = Listing(kernel, tuple(instructions))
    return listings
