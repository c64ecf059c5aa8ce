"""Translate one PTX instruction to a C++ statement: what all translators share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .ptx_function import PtxFunction
from .ptx_types import (
    BITS,
    FLOATS,
    UnsupportedPtxError,
    split_operands,
)

ROUNDING_MODES = {"rz": "FE_TOWARDZERO", "rm": "FE_DOWNWARD", "rp": "FE_UPWARD"}
OPERATORS = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}


@dataclass(frozen=True)
class Instruction:
    """`opcode.qualifiers operands` of a function."""

    function: PtxFunction
    text: str  # opcode with its qualifiers
    opcode: str
    qualifiers: list[str]
    operands: list[str]

    @property
    def type(self) -> str:
        """The last qualifier, which is the type of most instructions."""
        return self.qualifiers[-1] if self.qualifiers else ""

    @property
    def is_float(self) -> bool:
        """Whether the type is a scalar floating-point type."""
        return self.type in FLOATS

    @property
    def bits(self) -> int:
        """The width of the type."""
        return BITS[self.type]

    def has(self, qualifier: str) -> bool:
        """Return whether the instruction has a qualifier."""
        return qualifier in self.qualifiers

    def read(self, index: int, ptx_type: str | None = None) -> str:
        """Return the value of an operand."""
        ptx_type = ptx_type or self.type
        value = self.function.read(self.operands[index], ptx_type)
        return f"flush({value})" if self.has("ftz") and ptx_type == "f32" else value

    def sources(self) -> list[str]:
        """Return the values of all operands but the first."""
        return [self.read(i) for i in range(1, len(self.operands))]

    def write(self, value: str, ptx_type: str | None = None) -> str:
        """Return the statement that writes the first operand."""
        return self.function.write(
            self.operands[0],
            value,
            ptx_type or self.type,
            flush=self.has("ftz"),
            saturate=self.has("sat"),
        )

    def unsupported(self) -> UnsupportedPtxError:
        """Return the error for this instruction."""
        return UnsupportedPtxError(self.text)


Translator = Callable[[Instruction], str]
TRANSLATORS: dict[str, Translator] = {}


def translates(*opcodes: str) -> Callable[[Translator], Translator]:
    """Register the translator of some opcodes."""

    def register(translator: Translator) -> Translator:
        TRANSLATORS.update(dict.fromkeys(opcodes, translator))
        return translator

    return register


def translate_instruction(function: PtxFunction, text: str) -> str:
    """Return the C++ of `[@predicate] opcode operands`."""
    guard = ""
    if match := re.fullmatch(r"@(!?)(%?[\w$]+)\s+(.*)", text, re.DOTALL):
        guard, text = f"if ({match[1]}{function.raw(match[2], 'pred')}) ", match[3]
    opcode, _, operands = text.partition(" ")
    name, *qualifiers = opcode.split(".")
    if name not in TRANSLATORS:
        raise UnsupportedPtxError(opcode)
    instruction = Instruction(function, opcode, name, qualifiers, split_operands(operands))
    code = TRANSLATORS[name](instruction)
    return f"{guard}{{ {code} }}" if guard else code
