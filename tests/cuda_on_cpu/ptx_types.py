"""PTX types, state spaces and special registers, and the error for what is not supported."""

from __future__ import annotations

BITS = {
    "pred": 1,
    **dict.fromkeys(("b8", "u8", "s8"), 8),
    **dict.fromkeys(("b16", "u16", "s16", "f16", "bf16"), 16),
    **dict.fromkeys(("b32", "u32", "s32", "f32", "f16x2", "bf16x2"), 32),
    **dict.fromkeys(("b64", "u64", "s64", "f64"), 64),
}
FLOATS = ("f32", "f64", "f16", "bf16")
SPACES = {
    "global": "kGlobal",
    "shared": "kShared",
    "shared::cta": "kShared",
    "local": "kLocal",
    "const": "kConst",
    "param": "kParam",
    "param::entry": "kParam",
}
# Their addresses are plain pointers into the generated program.
PRIVATE_SPACES = ("kParam", "kLocal", "kConst")


class UnsupportedPtxError(Exception):
    """PTX that the executor does not know. Nothing is skipped in silence."""


def storage_type(ptx_type: str) -> str:
    """Return the C++ type of a register: unsigned bits, whatever they mean."""
    return "bool" if ptx_type == "pred" else f"u{BITS[ptx_type]}"


def value_type(ptx_type: str) -> str:
    """Return the C++ type that an operand is computed in."""
    floats = {"f32": "float", "f64": "double", "f16": "float", "bf16": "float", "pred": "bool"}
    if ptx_type in floats:
        return floats[ptx_type]
    return f"{'s' if ptx_type[0] == 's' else 'u'}{BITS[ptx_type]}"


def special_registers() -> dict[str, str]:
    """Return the C++ expression of each special register."""
    lane = "current->lane"
    registers = {
        "%laneid": lane,
        "%warpid": "current->warp",
        "%WARP_SZ": "32u",
        "%lanemask_eq": f"(1u << {lane})",
        "%lanemask_lt": f"((1u << {lane}) - 1)",
        "%lanemask_le": f"(~0u >> (31 - {lane}))",
        "%lanemask_gt": f"(~(~0u >> (31 - {lane})))",
        "%lanemask_ge": f"(~((1u << {lane}) - 1))",
        "%smid": "0u",
        "%nsmid": "1u",
        "%clock": "0u",
        "%clock64": "u64(0)",
        "%globaltimer": "u64(0)",
        "%dynamic_smem_size": "u32(running.dynamic_shared_bytes - kernel->static_shared_bytes)",
        "%total_smem_size": "u32(running.dynamic_shared_bytes)",
    }
    vectors = {
        "tid": "current->index",
        "ntid": "running.block",
        "ctaid": "running.index",
        "nctaid": "running.grid",
    }
    for name, expression in vectors.items():
        for axis in "xyz":
            registers[f"%{name}.{axis}"] = f"u32({expression}.{axis})"
    return registers


SPECIAL_REGISTERS = special_registers()


def identifier(name: str) -> str:
    """Return `name` with what C++ does not allow replaced by underscores."""
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name)


def split_operands(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets."""
    parts: list[str] = []
    depth, part = 0, ""
    for char in text:
        depth += (char in "{([") - (char in "})]")
        if char == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += char
    if part.strip():
        parts.append(part.strip())
    return parts


def vector_elements(text: str) -> list[str]:
    """Return the elements of `{a, b}` or `(a, b)`."""
    return [element.strip() for element in text.strip()[1:-1].split(",") if element.strip()]
