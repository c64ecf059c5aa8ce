"""Translate PTX moves, logic, comparisons and control flow."""

from __future__ import annotations

from .ptx_instructions import OPERATORS, Instruction, translates
from .ptx_types import UnsupportedPtxError, value_type, vector_elements

COMPARISONS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
# With a NaN the ordered comparisons are false and the unordered ones true.
UNORDERED = {
    "equ": "{0} < {1} || {0} > {1}",
    "neu": "{0} == {1}",
    "ltu": "{0} >= {1}",
    "leu": "{0} > {1}",
    "gtu": "{0} <= {1}",
    "geu": "{0} < {1}",
}


# ---- moves, logic, bits


@translates("mov")
def _move(i: Instruction) -> str:
    f, (target, source) = i.function, i.operands
    if target.startswith("{"):
        parts = vector_elements(target)
        width = i.bits // len(parts)
        writes = [
            f.write(part, f"x >> {k * width}", f"u{width}")
            for k, part in enumerate(parts)
            if part != "_"
        ]
        return f"{{ u64 x = {f.raw(source, i.type)}; {' '.join(writes)} }}"
    if source.startswith("{"):
        parts = vector_elements(source)
        width = i.bits // len(parts)
        terms = [
            f"u64(u{width}({f.raw(part, f'b{width}')})) << {k * width}"
            for k, part in enumerate(parts)
        ]
        return f.write(target, " | ".join(terms), f"b{i.bits}")
    return f.write(target, f.raw(source, i.type), "pred" if i.type == "pred" else f"b{i.bits}")


@translates("and", "or", "xor")
def _logic(i: Instruction) -> str:
    return i.write(f"{i.read(1)} {OPERATORS[i.opcode]} {i.read(2)}")


@translates("not")
def _not(i: Instruction) -> str:
    return i.write(f"{'!' if i.type == 'pred' else '~'}{i.read(1)}")


@translates("shl", "shr")
def _shift(i: Instruction) -> str:
    return i.write(f"{i.opcode}<{value_type(i.type)}>({i.read(1)}, {i.read(2, 'u32')})")


@translates("shf")
def _funnel_shift(i: Instruction) -> str:
    is_left, is_wrap = str(i.qualifiers[0] == "l").lower(), str(i.has("wrap")).lower()
    return i.write(f"shf({is_left}, {is_wrap}, {', '.join(i.sources())})")


@translates("lop3")
def _lop3(i: Instruction) -> str:
    return i.write(f"lop3({i.read(1)}, {i.read(2)}, {i.read(3)}, {i.operands[4]})")


@translates("prmt")
def _permute(i: Instruction) -> str:
    if len(i.qualifiers) != 1:
        raise i.unsupported()
    return i.write(f"prmt({', '.join(i.sources())})")


@translates("bfe")
def _extract(i: Instruction) -> str:
    field = f"{i.read(2, 'u32')}, {i.read(3, 'u32')}"
    return i.write(f"bfe<{value_type(i.type)}>({i.read(1)}, {field})")


@translates("bfi")
def _insert(i: Instruction) -> str:
    field = f"{i.read(3, 'u32')}, {i.read(4, 'u32')}"
    return i.write(f"bfi<{value_type(i.type)}>({i.read(1)}, {i.read(2)}, {field})")


@translates("popc", "clz", "bfind", "brev")
def _count_bits(i: Instruction) -> str:
    if i.opcode == "popc":
        return i.write(f"__builtin_popcountll({i.read(1)})", "u32")
    if i.opcode == "clz":
        return i.write(f"count_leading_zeros({i.read(1)})", "u32")
    if i.opcode == "brev":
        return i.write(f"reverse_bits({i.read(1)})")
    as_shift = str(i.has("shiftamt")).lower()
    return i.write(f"bfind<{value_type(i.type)}>({i.read(1)}, {as_shift})", "u32")


@translates("selp")
def _select(i: Instruction) -> str:
    f = i.function
    _, a, b, predicate = i.operands
    value = f"{f.raw(predicate, 'pred')} ? {f.raw(a, i.type)} : {f.raw(b, i.type)}"
    return f.write(i.operands[0], value, f"b{i.bits}")


@translates("setp")
def _compare(i: Instruction) -> str:
    f, comparison = i.function, i.qualifiers[0]
    a, b = i.read(1), i.read(2)
    if comparison == "ne" and i.is_float:
        value = f"({a} < {b} || {a} > {b})"
    elif comparison in COMPARISONS:
        value = f"{a} {COMPARISONS[comparison]} {b}"
    elif comparison == "num":
        value = f"({a} == {a} && {b} == {b})"
    elif comparison == "nan":
        value = f"({a} != {a} || {b} != {b})"
    elif comparison in UNORDERED:
        value = f"!({UNORDERED[comparison].format(a, b)})"
    else:
        raise i.unsupported()

    def combined(result: str) -> str:
        operators = {"and": "&&", "or": "||", "xor": "!="}
        if len(i.qualifiers) > 2 and i.qualifiers[1] in operators:
            return f"({result}) {operators[i.qualifiers[1]]} {f.raw(i.operands[3], 'pred')}"
        return result

    targets = [target.strip() for target in i.operands[0].split("|")]
    writes = [f.write(targets[0], combined("holds"), "pred")]
    if len(targets) > 1:
        writes.append(f.write(targets[1], combined("!holds"), "pred"))
    return f"{{ bool holds = {value}; {' '.join(writes)} }}"


# ---- control flow


@translates("bra")
def _branch(i: Instruction) -> str:
    return f"goto {i.function.label(i.operands[0])};"


@translates("brx")
def _branch_indexed(i: Instruction) -> str:
    targets = i.function.branch_targets[i.operands[1]]
    cases = [f"case {k}: goto {i.function.label(label)};" for k, label in enumerate(targets)]
    return f"switch ({i.read(0, 'u32')}) {{ {' '.join(cases)} }}"


@translates("ret", "exit")
def _return(i: Instruction) -> str:
    is_return = i.function.is_entry or i.opcode == "ret"
    return "return;" if is_return else 'fail("exit in a function");'


@translates("trap")
def _trap(_: Instruction) -> str:
    return 'fail("trap");'


@translates("call")
def _call(i: Instruction) -> str:
    operands = i.operands
    results = vector_elements(operands[0]) if operands[0].startswith("(") else []
    name, *rest = operands[1:] if operands[0].startswith("(") else operands
    arguments = vector_elements(rest[0]) if rest else []
    if name == "__assertfail":
        return 'fail("device assert");'
    if name == "vprintf":
        return ";"
    if name not in i.function.module.functions:
        raise UnsupportedPtxError(f"call of {name}")
    passed = ", ".join(i.function.memory_variable(x) for x in results + arguments)
    return f"function_{name}({passed});"
