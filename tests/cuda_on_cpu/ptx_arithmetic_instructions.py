"""Translate PTX arithmetic."""

from __future__ import annotations

from .ptx_instructions import OPERATORS, ROUNDING_MODES, Instruction, translates
from .ptx_types import value_type


def directed(i: Instruction) -> str | None:
    """Return the C++ of an operation in a directed rounding mode, None where it has none."""
    mode = next((ROUNDING_MODES[q] for q in i.qualifiers if q in ROUNDING_MODES), None)
    if mode is None:
        return None
    codes = {"mad": "f", "fma": "f", "div": "/", "rcp": "r", "sqrt": "s", **OPERATORS}
    if i.type not in ("f32", "f64") or i.opcode not in codes:
        raise i.unsupported()
    operands = ", ".join([*i.sources(), "0", "0"][:3])
    return i.write(f"directed<{value_type(i.type)}>({mode}, '{codes[i.opcode]}', {operands})")


PACKED = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "fma": "narrow(std::fma(double({0}), double({1}), double({2})))",
    "min": "minimum({0}, {1})",
    "max": "maximum({0}, {1})",
    "neg": "-{0}",
    "abs": "std::fabs({0})",
}


def packed(i: Instruction) -> str | None:
    """Return the C++ of an operation on two 16-bit floats in a register, None for other types."""
    if i.type not in ("f16x2", "bf16x2"):
        return None
    half, f = i.type[:-2], i.function

    def lane(shift: int) -> str:
        values = [f"{half}_to_f32(u16({f.raw(x, i.type)} >> {shift}))" for x in i.operands[1:]]
        return f"u32(f32_to_{half}({PACKED[i.opcode].format(*values)}))"

    return f.write(i.operands[0], f"{lane(0)} | {lane(16)} << 16", "b32")


@translates("add", "sub")
def _add(i: Instruction) -> str:
    if special := directed(i) or packed(i):
        return special
    if i.has("cc"):
        raise i.unsupported()
    operator = OPERATORS[i.opcode]
    if i.is_float:
        return i.write(f"{i.read(1)} {operator} {i.read(2)}")
    if i.has("sat"):
        return i.write(f"saturate_integer<s32>(s64({i.read(1)}) {operator} s64({i.read(2)}))")
    unsigned = f"u{i.bits}"
    return i.write(f"{i.read(1, unsigned)} {operator} {i.read(2, unsigned)}", unsigned)


@translates("mul", "mad", "fma")
def _multiply(i: Instruction) -> str:
    if special := directed(i) or packed(i):
        return special
    addend = i.opcode != "mul"
    if i.is_float:
        if not addend:
            return i.write(f"{i.read(1)} * {i.read(2)}")
        if i.type in ("f32", "f64"):
            return i.write(f"std::fma({', '.join(i.sources())})")
        return i.write(f"narrow(std::fma({', '.join(f'double({x})' for x in i.sources())}))")
    form, unsigned = i.qualifiers[0], f"u{i.bits}"
    if form == "lo":
        product = f"u{max(32, i.bits)}({i.read(1, unsigned)}) * {i.read(2, unsigned)}"
    elif form == "hi":
        product, unsigned = f"high_product<{value_type(i.type)}>({i.read(1)}, {i.read(2)})", i.type
    elif form == "wide":
        wide, unsigned = f"{i.type[0]}{i.bits * 2}", f"u{i.bits * 2}"
        product = f"{unsigned}({wide}({i.read(1)}) * {wide}({i.read(2)}))"
    else:
        raise i.unsupported()
    return i.write(f"{product} + {i.read(3, unsigned)}" if addend else product, unsigned)


@translates("div")
def _divide(i: Instruction) -> str:
    if i.is_float:
        return directed(i) or i.write(f"{i.read(1)} / {i.read(2)}")
    return i.write(f"divide<{value_type(i.type)}>({i.read(1)}, {i.read(2)})")


@translates("rem")
def _remainder(i: Instruction) -> str:
    return i.write(f"remainder<{value_type(i.type)}>({i.read(1)}, {i.read(2)})")


@translates("neg", "abs")
def _sign(i: Instruction) -> str:
    if special := packed(i):
        return special
    value = i.read(1)
    if i.opcode == "neg":
        return i.write(f"-{value}" if i.is_float else f"u64(0) - u64({value})")
    return i.write(
        f"std::fabs({value})" if i.is_float else f"{value} < 0 ? 0 - u64({value}) : u64({value})"
    )


@translates("min", "max")
def _extremum(i: Instruction) -> str:
    if special := packed(i):
        return special
    a, b = i.read(1), i.read(2)
    if not i.is_float:
        return i.write(f"std::{i.opcode}<{value_type(i.type)}>({a}, {b})")
    nan = "_nan" if i.has("NaN") else ""
    return i.write(f"{i.opcode}imum{nan}<{value_type(i.type)}>({a}, {b})")


@translates("sqrt", "rsqrt", "rcp", "ex2", "lg2", "sin", "cos", "tanh")
def _function(i: Instruction) -> str:
    # .approx versions use the C library: not the GPU's bits.
    expressions = {
        "rsqrt": "{1}(1.0 / std::sqrt(double({0})))",
        "rcp": "{1}(1) / {0}",
        "ex2": "std::exp2({0})",
        "lg2": "std::log2({0})",
    }
    expression = expressions.get(i.opcode, f"std::{i.opcode}({{0}})")
    return directed(i) or i.write(expression.format(i.read(1), value_type(i.type)))


@translates("copysign")
def _copysign(i: Instruction) -> str:
    return i.write(f"std::copysign({i.read(2)}, {i.read(1)})")


@translates("testp")
def _testp(i: Instruction) -> str:
    tests = {
        "infinite": "std::isinf({0})",
        "finite": "std::isfinite({0})",
        "notanumber": "({0} != {0})",
        "number": "({0} == {0})",
    }
    if i.qualifiers[0] not in tests:
        raise i.unsupported()
    return i.write(tests[i.qualifiers[0]].format(i.read(1)), "pred")
