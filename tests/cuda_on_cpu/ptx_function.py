"""One PTX function while it is translated: its names and operands, as C++ expressions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from .ptx_types import (
    BITS,
    SPECIAL_REGISTERS,
    UnsupportedPtxError,
    identifier,
    storage_type,
    value_type,
)

if TYPE_CHECKING:
    from .ptx_module import PtxModule


class Parameter(NamedTuple):
    """A parameter of a kernel or function."""

    name: str
    size_bytes: int
    alignment: int


class Access(NamedTuple):
    """An instruction that accesses global or shared memory."""

    text: str
    line: int
    space: str
    kind: str
    size_bytes: int


class PtxFunction:
    """Collects the C++ of one kernel (`is_entry`) or device function."""

    def __init__(
        self,
        module: PtxModule,
        name: str,
        *,
        is_entry: bool,
        parameters: list[Parameter],
        returns: list[Parameter],
    ) -> None:
        self.module, self.name, self.is_entry = module, name, is_entry
        self.parameters, self.returns = parameters, returns
        self.code: list[str] = []
        self.declarations: list[str] = []
        self.accesses: list[Access] = []
        self.branch_targets: dict[str, list[str]] = {}
        self.shared_top = module.shared_top
        self.line, self.source = 0, ""
        self._shared: dict[str, int] = {}
        self._scopes: list[dict[str, tuple[str, str]]] = [{}]
        self._unique = 0
        self._collectives: dict[str, int] = {}
        self.parameter_offsets: dict[str, int] = {}
        self._parameter_bases = {p.name: f"{p.name}_p" for p in (*parameters, *returns)}
        self.parameter_bytes = 0
        for p in parameters:
            offset = -(-self.parameter_bytes // p.alignment) * p.alignment
            self.parameter_offsets[p.name] = offset
            self.parameter_bytes = offset + p.size_bytes
            if is_entry:
                self._parameter_bases[p.name] = f"P + {offset}"

    # ---- declarations

    def open_scope(self) -> None:
        """Begin a `{`."""
        self._scopes.append({})

    def close_scope(self) -> None:
        """End a `}`."""
        self._scopes.pop()

    def declare_registers(self, ptx_type: str, names: str) -> None:
        """Translate `.reg .type a, %r<8>`."""
        for item in names.split(","):
            match = re.fullmatch(r"(.*)<(\d+)>", item.strip())
            group = [f"{match[1]}{i}" for i in range(int(match[2]))] if match else [item.strip()]
            self._unique += 1
            variables = []
            for name in group:
                variable = f"v{self._unique}_{identifier(name.lstrip('%'))}"
                self._scopes[-1][name] = (variable, ptx_type)
                variables.append(f"{variable} = 0")
            for i in range(0, len(variables), 16):
                chunk = ", ".join(variables[i : i + 16])
                self.declarations.append(f"  {storage_type(ptx_type)} {chunk};")

    def declare_memory(self, space: str, name: str, size_bytes: int, alignment: int) -> None:
        """Translate a `.shared`, `.local` or `.param` variable of the function's body."""
        if space == "shared":
            self.shared_top = -(-self.shared_top // alignment) * alignment
            self._shared[name] = self.shared_top
            self.shared_top += size_bytes
            return
        self._unique += 1
        variable = f"m{self._unique}"
        self.declarations.append(f"  alignas(16) u8 {variable}[{size_bytes}];")
        self._scopes[-1]["&" + name] = (variable, "kLocal" if space == "local" else "kParam")

    def lookup(self, name: str) -> tuple[str, str] | None:
        """Return the C++ variable and the PTX type of a register."""
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return None

    def register(self, name: str) -> tuple[str, str]:
        """Return what `lookup` returns, or raise."""
        found = self.lookup(name.strip())
        if found is None:
            raise UnsupportedPtxError(f"destination {name}")
        return found

    # ---- operands

    def raw(self, operand: str, ptx_type: str) -> str:
        """Return an operand as unsigned bits of the width of `ptx_type`."""
        operand = operand.strip()
        if operand.startswith("!"):
            return f"(!{self.raw(operand[1:], ptx_type)})"
        if found := self.lookup(operand):
            return found[0]
        if operand in SPECIAL_REGISTERS:
            return SPECIAL_REGISTERS[operand]
        if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", operand):
            return f"0x{match[1]}u"
        if match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", operand):
            return f"0x{match[1]}ull"
        if match := re.fullmatch(r"(-?)(0[xX][0-9a-fA-F]+|\d+)U?", operand):
            value = int(match[2], 0) * (-1 if match[1] else 1)
            mask = (1 << max(BITS[ptx_type], 32)) - 1
            return f"0x{value & mask:x}{'ull' if BITS[ptx_type] == 64 else 'u'}"
        if address := self._address_of(operand):
            return address[1]
        raise UnsupportedPtxError(f"operand {operand}")

    def read(self, operand: str, ptx_type: str) -> str:
        """Return an operand as a value of `value_type(ptx_type)`."""
        bits = self.raw(operand, ptx_type)
        convert = {"f32": "as_f32", "f64": "as_f64", "f16": "f16_to_f32", "bf16": "bf16_to_f32"}
        return f"{convert.get(ptx_type, value_type(ptx_type))}({bits})"

    def write(
        self,
        operand: str,
        value: str,
        ptx_type: str,
        *,
        flush: bool = False,
        saturate: bool = False,
    ) -> str:
        """Return the statement that writes `value`, of type `ptx_type`, to a register."""
        if operand.strip() == "_":
            return f"(void)({value});"
        variable, register_type = self.register(operand)
        if saturate and ptx_type in ("f32", "f64", "f16", "bf16"):
            value = f"saturate({value})"
        if flush and ptx_type == "f32":
            value = f"flush({value})"
        convert = {"f32": "f32_bits", "f64": "f64_bits", "f16": "f32_to_f16", "bf16": "f32_to_bf16"}
        if ptx_type in convert:
            value = f"{convert[ptx_type]}({value})"
        return f"{variable} = {storage_type(register_type)}({value});"

    # ---- addresses

    def _address_of(self, name: str) -> tuple[str, str] | None:
        """Return the state space and the address of a variable."""
        if name in self._shared:
            return "kShared", f"u64({self._shared[name]}u)"
        if name in self.module.shared:
            offset = self.module.shared[name]  # None: dynamic, behind all static variables
            place = "kernel->static_shared_bytes" if offset is None else f"{offset}u"
            return "kShared", f"u64({place})"
        if name in self._parameter_bases:
            return "kParam", f"u64({self._parameter_bases[name]})"
        if found := self.lookup("&" + name):
            return found[1], f"u64({found[0]})"
        if name in self.module.variable_spaces:
            return self.module.variable_spaces[name], f"u64(g_{identifier(name)})"
        return None

    def address(self, operand: str) -> tuple[str | None, str]:
        """Return the space, if the operand tells it, and the 64-bit address of `[base+offset]`."""
        match = re.fullmatch(r"\[\s*([^\]+\s]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand.strip())
        if not match:
            raise UnsupportedPtxError(f"address {operand}")
        base, offset = match[1], int(match[2], 0) if match[2] else 0
        if found := self.lookup(base):
            if BITS.get(found[1]) == 32:
                return None, f"u64(u32({found[0]} + u32({offset})))"
            return None, f"(u64({found[0]}) + u64(s64({offset})))"
        if variable := self._address_of(base):
            return variable[0], f"({variable[1]} + u64(s64({offset})))"
        return None, f"u64({int(base, 0) + offset})"

    def memory_variable(self, name: str) -> str:
        """Return the C++ array of a `.param` variable of the body, as calls pass it."""
        return self.register("&" + name.strip())[0]

    # ---- bookkeeping

    def record_access(self, text: str, space: str, kind: str, size_bytes: int) -> int:
        """Number an access to global or shared memory."""
        self.accesses.append(Access(text + self.source, self.line, space, kind, size_bytes))
        return len(self.accesses) - 1

    def collective(self, qualifiers: str) -> int:
        """Return the id of a warp collective: equal qualifiers, equal id."""
        return self._collectives.setdefault(qualifiers, 1 + len(self._collectives))

    @staticmethod
    def label(name: str) -> str:
        """Return the C++ label of a PTX label."""
        return "L_" + identifier(name.strip())
