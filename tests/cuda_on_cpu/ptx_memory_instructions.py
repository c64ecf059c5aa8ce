"""Translate PTX loads, stores, atomics, barriers and warp collectives."""

from __future__ import annotations

from .ptx_instructions import Instruction, translates
from .ptx_types import (
    BITS,
    PRIVATE_SPACES,
    SPACES,
    storage_type,
    value_type,
    vector_elements,
)


@translates("ld", "ldu", "st")
def _load_or_store(i: Instruction) -> str:
    f, is_store = i.function, i.opcode == "st"
    count = next((int(q[1:]) for q in i.qualifiers if q in ("v2", "v4", "v8")), 1)
    element_bytes = i.bits // 8
    size_bytes = element_bytes * count
    space = next((SPACES[q] for q in i.qualifiers if q in SPACES), "kGeneric")
    address_space, address = f.address(i.operands[0 if is_store else 1])
    value = i.operands[1 if is_store else 0]
    if space in PRIVATE_SPACES or address_space in PRIVATE_SPACES:
        pointer = f'private_memory({address}, {size_bytes}, "{i.text}", {f.line})'
    else:
        kind = "kStore" if is_store else "kLoad"
        number = f.record_access(i.text, space, kind, size_bytes)
        pointer = f"memory({space}, {address}, {size_bytes}, {kind}, {number})"
    unsigned = f"u{i.bits}"
    # Signed types extend their sign into a wider register.
    loaded = value_type(i.type) if i.type[0] == "s" else unsigned
    code = [f"u8* p = {pointer};"]
    for k, register in enumerate(vector_elements(value) if count > 1 else [value]):
        place = f"p + {k * element_bytes}"
        if is_store:
            code.append(f"store<{unsigned}>({place}, {unsigned}({f.raw(register, i.type)}));")
        elif register != "_":
            variable, register_type = f.register(register)
            code.append(f"{variable} = {storage_type(register_type)}(load<{loaded}>({place}));")
    return f"{{ {' '.join(code)} }}"


ATOMIC_OPERATIONS = {
    "add": "{old} + {value}",
    "min": "std::min({old}, {value})",
    "max": "std::max({old}, {value})",
    "and": "{old} & {value}",
    "or": "{old} | {value}",
    "xor": "{old} ^ {value}",
    "exch": "{value}",
    "cas": "{old} == {value} ? {other} : {old}",
    "inc": "({old} >= {value} ? 0 : {old} + 1)",
    "dec": "({old} == 0 || {old} > {value} ? {value} : {old} - 1)",
}


@translates("atom", "red")
def _atomic(i: Instruction) -> str:
    f = i.function
    if any(q in ("v2", "v4", "v8") for q in i.qualifiers):
        raise i.unsupported()
    target, place, *values = i.operands if i.opcode == "atom" else ["_", *i.operands]
    space = next((SPACES[q] for q in i.qualifiers if q in SPACES), "kGeneric")
    operation = next(q for q in i.qualifiers if q in ATOMIC_OPERATIONS)
    _, address = f.address(place)
    size_bytes, unsigned = i.bits // 8, f"u{i.bits}"
    number = f.record_access(i.text, space, "kAtomic", size_bytes)
    new = _packed_add(f.raw(values[0], "b32"), i.type) if i.type.endswith("x2") else None
    if new is None:
        convert = {"f32": "as_f32", "f64": "as_f64", "f16": "f16_to_f32", "bf16": "bf16_to_f32"}
        back = {"f32": "f32_bits", "f64": "f64_bits", "f16": "f32_to_f16", "bf16": "f32_to_bf16"}
        new = ATOMIC_OPERATIONS[operation].format(
            old=f"{convert.get(i.type, value_type(i.type))}(old)",
            value=f.read(values[0], i.type),
            other=f.read(values[1], i.type) if operation == "cas" else "",
        )
        new = f"{back.get(i.type, unsigned)}({new})"
    elif operation != "add":
        raise i.unsupported()
    code = (
        f"u8* p = memory({space}, {address}, {size_bytes}, kAtomic, {number}); "
        f"{unsigned} old = load<{unsigned}>(p); store<{unsigned}>(p, {new});"
    )
    if target != "_":
        variable, register_type = f.register(target)
        code += f" {variable} = {storage_type(register_type)}(old);"
    return f"{{ {code} }}"


def _packed_add(value: str, ptx_type: str) -> str:
    half = ptx_type[:-2]

    def lane(shift: int) -> str:
        old, added = (f"{half}_to_f32(u16({x} >> {shift}))" for x in ("old", value))
        return f"u32(f32_to_{half}({old} + {added}))"

    return f"{lane(0)} | {lane(16)} << 16"


# ---- barriers and warp collectives


@translates("bar", "barrier")
def _barrier(i: Instruction) -> str:
    if i.qualifiers[:1] == ["warp"]:
        mask = i.read(0, "u32")
        return f"cuda_on_cpu::warp_meet({mask}, 0, {i.function.collective('bar.warp')});"
    if i.has("sync") and i.operands == ["0"]:
        return "cuda_on_cpu::block_barrier(0);"  # all barriers of PTX are barrier 0: they meet
    raise i.unsupported()


@translates("shfl")
def _shuffle(i: Instruction) -> str:
    f = i.function
    value, lane, clamp, mask = (i.read(k, "u32") for k in range(1, 5))
    targets = [target.strip() for target in i.operands[0].split("|")]
    mode, number = i.qualifiers[1][0], f.collective(i.text)
    call = f"shfl('{mode}', {value}, {lane}, {clamp}, {mask}, is_inside, {number})"
    code = f"bool is_inside; u32 x = {call}; {f.write(targets[0], 'x', 'b32')}"
    if len(targets) > 1 and targets[1] != "_":
        code += " " + f.write(targets[1], "is_inside", "pred")
    return f"{{ {code} }}"


@translates("vote")
def _vote(i: Instruction) -> str:
    f = i.function
    if i.qualifiers[0] != "sync" or i.qualifiers[1] not in ("ballot", "any", "all"):
        raise i.unsupported()
    mask = i.read(2, "u32")
    ballot = f"ballot({f.raw(i.operands[1], 'pred')}, {mask}, {f.collective(i.text)})"
    if i.qualifiers[1] == "ballot":
        return i.write(ballot, "b32")
    return i.write(f"{ballot} != 0" if i.qualifiers[1] == "any" else f"{ballot} == {mask}", "pred")


@translates("match")
def _match(i: Instruction) -> str:
    if i.qualifiers[0] != "any":
        raise i.unsupported()
    number = i.function.collective(i.text)
    return i.write(f"match_any({i.read(1)}, {i.read(2, 'u32')}, {number})", "b32")


@translates("redux")
def _reduce(i: Instruction) -> str:
    if i.is_float or BITS[i.type] != 32:
        raise i.unsupported()
    combine = {
        "add": "x + y",
        "and": "x & y",
        "or": "x | y",
        "xor": "x ^ y",
        "min": "std::min(x, y)",
        "max": "std::max(x, y)",
    }[i.qualifiers[1]]
    kind = value_type(i.type)
    function = f"[]({kind} x, {kind} y) {{ return {combine}; }}"
    number = i.function.collective(i.text)
    return i.write(f"redux<{kind}>({i.read(1)}, {i.read(2, 'u32')}, {number}, {function})")


@translates("activemask")
def _active_mask(i: Instruction) -> str:
    return i.write("active_mask()", "b32")


@translates("membar", "fence", "prefetch", "prefetchu", "discard", "griddepcontrol")
def _no_effect(_: Instruction) -> str:
    return ";"  # threads run one at a time, and memory is consistent
