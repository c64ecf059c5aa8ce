"""Translate a PTX module into C++: parse it, and frame what the instructions become."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Sequence

from . import (  # noqa: F401 - they register translators
    ptx_arithmetic_instructions,
    ptx_conversions,
    ptx_logic_instructions,
    ptx_memory_instructions,
)
from .ptx_function import Parameter, PtxFunction
from .ptx_instructions import translate_instruction
from .ptx_types import BITS, UnsupportedPtxError, identifier

DIRECTIVE = re.compile(r"\.(version|target|address_size|file|loc)[^\n]*\n")
VARIABLE = re.compile(
    r"(?:\.(?:visible|extern|weak|common)\s+)*\.(?P<space>shared|global|const)\s+"
    r"(?:\.attribute\([^)]*\)\s*)?(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+"
    r"(?P<name>[\w$]+)\s*(?P<array>\[(?P<count>\d*)\])?\s*(?:=\s*(?P<value>[^;]*))?;"
)
FUNCTION = re.compile(r"((?:\.(?:visible|extern|weak)\s+)*)\.(entry|func)\s*")
PARAMETER = re.compile(
    r"\.(?:param|reg)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+)?"
    r"(?:\.(?:global|shared|const|local)\s+)?(?:\.align\s+\d+\s+)?([\w$%]+)(?:\[(\d+)\])?"
)
BODY_VARIABLE = re.compile(r"\.(\w+) (?:\.align (\d+) )?\.(\w+) ([\w$]+)(?:\[(\d*)\])?")
LOCATION = re.compile(r"\.loc\s+(\d+)\s+(\d+)[^\n;]*\n")
LABEL = re.compile(r"([\w$]+)\s*:(?!:)")
IGNORED = (".pragma", ".branchtargets", ".maxntid", ".callprototype")


def blank(match: re.Match[str]) -> str:
    """Return the newlines of a match: line numbers stay right."""
    return "\n" * match[0].count("\n")


class PtxModule:
    """The kernels of one PTX file; `cpp()` is the program that runs them.

    Args:
        text: the PTX.
        only: parts of the mangled names of the kernels to translate; all, where there is none.
    """

    def __init__(self, text: str, only: Sequence[str] = ()) -> None:
        self._only = only
        self.variable_spaces: dict[str, str] = {}
        self.shared: dict[str, int | None] = {}  # offset; None for dynamic shared memory
        self.shared_top = 0
        self.functions: dict[str, tuple[list[Parameter], list[Parameter]]] = {}
        self.bodies: list[PtxFunction] = []
        self._definitions: list[str] = []
        text = re.sub(r"/\*.*?\*/", blank, text, flags=re.DOTALL)
        text = re.sub(r"//[^\n]*", "", text)
        self._files = {
            m[1]: m[2].rsplit("/", 1)[-1] for m in re.finditer(r'\.file\s+(\d+)\s+"([^"]*)"', text)
        }
        self._text = re.sub(r"\.section[^\n]*\n\s*\{.*?\n\s*\}", blank, text, flags=re.DOTALL)
        self._newlines = [match.start() for match in re.finditer("\n", self._text)]
        self._parse()

    @property
    def kernels(self) -> list[PtxFunction]:
        """The entry functions, in the order of the file."""
        return [body for body in self.bodies if body.is_entry]

    # ---- parsing

    def _parse(self) -> None:
        text, at = self._text, 0
        while found := re.compile(r"\S").search(text, at):
            at = found.start()
            if match := DIRECTIVE.match(text, at):
                at = match.end()
            elif match := VARIABLE.match(text, at):
                self._variable(match)
                at = match.end()
            elif match := FUNCTION.match(text, at):
                at = self._function(match.end(), is_entry=match[2] == "entry")
            else:
                raise UnsupportedPtxError(f"top level: {text[at : at + 80]}")

    def _variable(self, match: re.Match[str]) -> None:
        name, bits = match["name"], BITS[match["type"]]
        alignment = int(match["align"] or bits // 8)
        count = int(match["count"] or 0) if match["array"] else 1
        size_bytes = count * bits // 8
        if match["space"] == "shared":
            if size_bytes == 0:
                self.shared[name] = None
                return
            self.shared_top = -(-self.shared_top // alignment) * alignment
            self.shared[name] = self.shared_top
            self.shared_top += size_bytes
            return
        self.variable_spaces[name] = "kGlobal" if match["space"] == "global" else "kConst"
        value = re.sub(r"\b0[fFdD]([0-9a-fA-F]{8,16})\b", r"0x\1", match["value"] or "")
        if re.search(r"(?<!\w)[A-Za-z_$]", value):
            raise UnsupportedPtxError(f"address in the initialiser of {name}")
        variable = f"g_{identifier(name)}"
        initialiser = f" = {{{value.strip().strip('{}')}}}" if value else ""
        self._definitions += [
            f"alignas({max(alignment, 16)}) u{bits} {variable}[{max(1, count)}]{initialiser};",
            f"const Variable registered_{variable}({variable}, {size_bytes});",
        ]

    @staticmethod
    def _parameters(text: str) -> list[Parameter]:
        parameters = []
        for match in PARAMETER.finditer(text):
            size = BITS[match[2]] // 8
            parameters.append(Parameter(match[3], size * int(match[4] or 1), int(match[1] or size)))
        return parameters

    def _line(self, at: int) -> int:
        return bisect.bisect_left(self._newlines, at) + 1

    def _function(self, at: int, *, is_entry: bool) -> int:
        """Parse a function whose header continues at `at`; return where it ends."""
        text, returns = self._text, []
        if text[at] == "(":
            end = text.index(")", at)
            returns, at = self._parameters(text[at:end]), end + 1
        header = re.compile(r"\s*([\w$]+)\s*(\(([^)]*)\))?").match(text, at)
        if header is None:
            raise UnsupportedPtxError(f"function: {text[at : at + 80]}")
        name, parameters = header[1], self._parameters(header[3] or "")
        self.functions.setdefault(name, (parameters, returns))
        at = min(i for i in (text.find("{", header.end()), text.find(";", header.end())) if i >= 0)
        if text[at] == ";":
            return at + 1
        if is_entry and self._only and not any(part in name for part in self._only):
            return self._skip_body(at + 1)
        statements, at = self._statements(at + 1)
        function = PtxFunction(
            self, name, is_entry=is_entry, parameters=parameters, returns=returns
        )
        for (label, _), (statement, _) in itertools.pairwise(statements):
            if statement.startswith(".branchtargets"):
                targets = statement.removeprefix(".branchtargets").split(",")
                function.branch_targets[label[:-1]] = [target.strip() for target in targets]
        for statement, line in statements:
            function.line = line
            try:
                self._translate(function, statement)
            except UnsupportedPtxError as error:
                where = f"{name}: PTX line {line}: {statement}"
                raise UnsupportedPtxError(f"{where}: unsupported: {error}") from None
        self.bodies.append(function)
        return at

    def _skip_body(self, at: int) -> int:
        """Return where the body ends that begins at `at`."""
        depth = 1
        for brace in re.compile(r"[{}]").finditer(self._text, at):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                return brace.end()
        raise UnsupportedPtxError("a body without an end")

    def _statements(self, at: int) -> tuple[list[tuple[str, int]], int]:
        """Return the statements of a body with their lines, and where the body ends."""
        text, depth = self._text, 1
        statements: list[tuple[str, int]] = []
        while True:
            while text[at].isspace():
                at += 1
            line = self._line(at)
            if text[at] in "{}":
                depth += 1 if text[at] == "{" else -1
                if depth == 0:
                    return statements, at + 1
                statements.append((text[at], line))
                at += 1
            elif match := LOCATION.match(text, at):
                statements.append((f".loc {self._files.get(match[1], match[1])}:{match[2]}", line))
                at = match.end()
            elif match := LABEL.match(text, at):
                statements.append((match[1] + ":", line))
                at = match.end()
            else:
                end = text.index(";", at)
                statements.append((" ".join(text[at:end].split()), line))
                at = end + 1

    @staticmethod
    def _translate(function: PtxFunction, statement: str) -> None:
        if statement == "{":
            function.open_scope()
        elif statement == "}":
            function.close_scope()
        elif statement.endswith(":"):
            if statement[:-1] not in function.branch_targets:
                function.code.append(f"{function.label(statement[:-1])}:;")
        elif match := re.fullmatch(r"\.reg \.(\w+) (.*)", statement):
            function.declare_registers(match[1], match[2])
        elif match := BODY_VARIABLE.fullmatch(statement):
            element_bytes = BITS[match[3]] // 8
            size_bytes = element_bytes * int(match[5] or 1)
            function.declare_memory(match[1], match[4], size_bytes, int(match[2] or element_bytes))
        elif statement.startswith(".loc"):
            function.source = " @" + statement.removeprefix(".loc ")
        elif not statement.startswith(IGNORED):
            function.code.append("  " + translate_instruction(function, statement))

    # ---- C++

    def cpp(self) -> str:
        """Return the C++ program: one function launch_<kernel> per kernel."""
        lines = ['#include "ptx_runtime.h"', "using namespace ptx;", "namespace {"]
        lines += self._definitions
        lines += [f"{signature(body)};" for body in self.bodies if not body.is_entry]
        exports = []
        for body in self.bodies:
            lines += [f"{signature(body)} {{", *body.declarations, *body.code, "}"]
            if body.is_entry:
                lines += kernel_table(body)
                exports.append(
                    f'extern "C" int launch_{body.name}(const unsigned* dimensions, size_t shared, '
                    f"const u8* arguments, size_t bytes) {{ return launch(kernel_{body.name}, "
                    f"entry_{body.name}, dimensions, shared, arguments, bytes); }}"
                )
            elif body.accesses:
                raise UnsupportedPtxError(f"memory access inside function {body.name}: inline it")
        return "\n".join([*lines, "}  // namespace", *exports]) + "\n"


def signature(function: PtxFunction) -> str:
    """Return the head of the C++ function."""
    if function.is_entry:
        return f"void entry_{function.name}(const u8* P)"
    parameters = ", ".join(f"u8* {p.name}_p" for p in function.returns + function.parameters)
    return f"void function_{function.name}({parameters})"


def kernel_table(kernel: PtxFunction) -> list[str]:
    """Return the table of the kernel's accesses and its description."""
    rows = [
        f'{{"{a.text}", {a.line}, {a.space}, {a.kind}, {a.size_bytes}}}' for a in kernel.accesses
    ] or ['{"", 0, kGlobal, kLoad, 1}']
    shared_bytes = -(-kernel.shared_top // 16) * 16
    name, count = kernel.name, len(kernel.accesses)
    fields = f'"{name}", accesses_{name}, {count}, {shared_bytes}u'
    return [
        f"const Access accesses_{name}[] = {{{', '.join(rows)}}};",
        f"const Kernel kernel_{name} = {{{fields}}};",
    ]
