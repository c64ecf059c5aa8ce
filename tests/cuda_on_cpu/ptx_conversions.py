"""Translate PTX conversions: cvt and cvta."""

from __future__ import annotations

from .ptx_instructions import ROUNDING_MODES, Instruction, translates
from .ptx_types import BITS, FLOATS, SPACES, UnsupportedPtxError, value_type

INTEGRAL = {"rni": "nearbyint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


@translates("cvt")
def _convert(i: Instruction) -> str:
    types = [q for q in i.qualifiers if q in BITS]
    modifiers = [q for q in i.qualifiers if q not in BITS]
    if set(modifiers) - {*INTEGRAL, *ROUNDING_MODES, "rn", "rna", "ftz", "sat", "relu"}:
        raise i.unsupported()
    to, source = types[0], types[-1]
    rounding = next((q for q in modifiers if q[0] == "r" and q != "relu"), None)
    if to in ("f16x2", "bf16x2") and rounding == "rn":
        return _pack(i, to)
    value = i.read(1, source)
    if source in FLOATS and to in FLOATS:
        return _float_to_float(i, to, source, rounding, value)
    if source in FLOATS:
        if rounding not in INTEGRAL:
            raise i.unsupported()
        is_wide = str(BITS[to] == 64 or source == "f64").lower()
        return i.write(
            f"to_integer<{value_type(to)}>(std::{INTEGRAL[rounding]}({value}), {is_wide})", to
        )
    if to in FLOATS:
        if rounding in ROUNDING_MODES and to in ("f32", "f64"):
            mode = ROUNDING_MODES[rounding]
            return i.write(f"directed_convert<{value_type(to)}>({mode}, {value})", to)
        if rounding != "rn":
            raise i.unsupported()
        if to in ("f16", "bf16"):  # through double, which holds what a 16-bit float can tell apart
            return i.write(f"narrow(double({value}))", to)
        return i.write(f"{value_type(to)}({value})", to)
    convert = f"saturate_integer<{value_type(to)}>" if i.has("sat") else value_type(to)
    return i.write(f"{convert}({value})", to)


def _pack(i: Instruction, to: str) -> str:
    """cvt.rn.f16x2.f32 d, a, b: a goes to the upper half."""
    values = [i.function.read(operand, "f32") for operand in i.operands[1:]]
    if i.has("relu"):
        values = [f"std::max(0.f, {value})" for value in values]
    high, low = (f"u32(f32_to_{to[:-2]}({value}))" for value in values)
    return i.function.write(i.operands[0], f"{high} << 16 | {low}", "b32")


def _float_to_float(i: Instruction, to: str, source: str, rounding: str | None, value: str) -> str:
    if rounding in INTEGRAL:
        value = f"std::{INTEGRAL[rounding]}({value})"
    elif rounding in ROUNDING_MODES:
        if (to, source) != ("f32", "f64"):
            raise i.unsupported()
        value = f"directed_convert<float>({ROUNDING_MODES[rounding]}, {value})"
        return i.write(value, to)
    elif rounding not in (None, "rn"):
        raise i.unsupported()
    if source == "f64" and to != "f64":
        value = f"float({value})" if to == "f32" else f"narrow({value})"
    return i.write(value, to)


@translates("cvta")
def _convert_address(i: Instruction) -> str:
    # Generic addresses are pointers; those of shared memory are offsets.
    address = i.read(1, "u64")
    space = next((SPACES[q] for q in i.qualifiers if q in SPACES), None)
    if space is None:
        raise UnsupportedPtxError(i.text)
    if space == "kShared":
        base = "u64(running.dynamic_shared)"
        address = f"{address} - {base}" if i.has("to") else f"{base} + {address}"
    return i.write(address, "u64")
