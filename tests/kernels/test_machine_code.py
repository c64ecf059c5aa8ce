"""What is read of the compiler's output: resources of kernels, machine code, names."""

from __future__ import annotations

import pytest

from cuda_on_cpu import build, sass
from cuda_on_cpu.mangled import find_kernel
from cuda_on_cpu.toolkit import HERE

KERNELS = HERE / "example_kernels.cu"


@pytest.mark.parametrize("architecture", build.ARCHITECTURES)
def test_machine_code_of_the_examples_is_read(architecture: str) -> None:
    cubin = build.compile_cubin(KERNELS, architecture=architecture)
    usage = cubin.resources_of("philox_kernel")
    assert 8 <= usage.registers <= 40
    assert usage.stack_bytes == usage.spill_store_bytes == usage.spill_load_bytes == 0
    philox = cubin.sass_of("philox_kernel").main_loop()
    assert set(philox.widths("STG")) == {128}
    assert philox.fp64 == philox.calls == philox.local_memory == 0
    assert set(cubin.sass_of("sum_kernel").main_loop().widths("LDG")) == {128}
    assert cubin.sass_of("atomics_kernel").fp64 > 0
    assert cubin.sass_of("sum_kernel").count("SHFL") == 10
    assert cubin.resources_of("sum_kernel").shared_bytes == 128


def test_local_memory_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="Local memory used"):
        build.compile_cubin(KERNELS, flags=["-DBUG_LOCAL_ARRAY"])
    cubin = build.compile_cubin(KERNELS, flags=["-DBUG_LOCAL_ARRAY"], strict=False)
    assert cubin.resources_of("halves_kernel").stack_bytes >= 64
    assert cubin.sass_of("halves_kernel").local_memory > 0
    with pytest.raises(RuntimeError, match="expected neither spills nor local memory, got"):
        build.refuse_local_memory(cubin.log)
    build.refuse_local_memory(build.compile_cubin(KERNELS).log)
    with pytest.raises(RuntimeError, match="expected neither spills nor local memory, got"):
        build.refuse_local_memory("")


LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3foov' for 'sm_90'
ptxas info    : Function properties for _Z3foov
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers, 16 bytes smem
ptxas info    : 8 bytes gmem, 4 bytes cmem[3]
ptxas info    : Compiling entry function '_Z3foov' for 'sm_120'
ptxas info    : Function properties for _Z3foov
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers
"""


@pytest.mark.parametrize(("architecture", "registers", "stack"), [("90", 24, 0), ("120", 32, 8)])
def test_what_a_build_for_several_architectures_prints_is_told_apart(
    architecture: str, registers: int, stack: int
) -> None:
    (usage,) = build.parse_resources(build.section_of_log(LOG, architecture)).values()
    assert (usage.registers, usage.stack_bytes) == (registers, stack)


SASS = """
        .section        .text._Z3foov,"ax",@progbits
.text._Z3foov:
        /*0000*/                   LDC R1, c[0x0][0x37c] ;
.L_x_0:
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
.L_x_1:
        /*0020*/                   LDG.E.U8 R4, desc[UR4][R2.64] ;
        /*0030*/                   DFMA R4, R4, R4, R4 ;
        /*0040*/              @P0 BRA `(.L_x_1) ;
        /*0050*/                   F2F.F64.F32 R4, R5 ;
        /*0060*/             @!UP0 BRA `(.L_x_0) ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   BRA `(.L_x_2);
"""


def test_loops_are_what_lies_between_a_label_and_a_branch_back_to_it() -> None:
    foo = sass.parse_sass(SASS)["_Z3foov"]
    assert len(foo) == 9
    assert foo.fp64 == 2
    assert foo.widths("LDG") == {128: 1, 8: 1}
    assert [len(loop) for loop in foo.loops()] == [6, 3]
    assert foo.loops()[1].opcodes == {"LDG.E.U8": 1, "DFMA": 1, "BRA": 1}
    # The widest access lies in the outer loop, and the inner loop belongs to it.
    assert len(foo.main_loop()) == 6
    assert len(sass.parse_sass(SASS.replace("LDG.E.128", "LDG.E.U8"))["_Z3foov"].main_loop()) == 3


LOADS = """
        .section        .text._Z3foov,"ax",@progbits
.text._Z3foov:
        /*0000*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0010*/                   LDG.E.128 R8, desc[UR4][R2.64+0x10] ;
        /*0020*/                   LDG.E R40, desc[UR4][R2.64+0x20] ;
        /*0030*/                   FADD R12, R7, R20.reuse ;
        /*0040*/                   LDG.E.128 R16, desc[UR4][R2.64] ;
        /*0050*/                   LDG.E R2, desc[UR4][R16.64] ;
        /*0060*/                   LDG.E R3, desc[UR4][R30.64] ;
"""


def test_loads_are_in_flight_until_one_of_them_is_used() -> None:
    foo = sass.parse_sass(LOADS)["_Z3foov"]
    assert foo.loads_in_flight() == {128: 2, 32: 2}
    # The last of four registers is used; a load whose address was loaded waits as well.
    second = sass.Listing("foo", foo.instructions[3:])
    assert second.loads_in_flight() == {128: 1, 32: 2}


VOTING = """
        .section        .text._Z3foov,"ax",@progbits
.text._Z3foov:
.L_x_0:
        /*0010*/                   VOTE.ANY P0, P0 ;
        /*0020*/                   FADD R4, R4, R4 ;
        /*0030*/              @!P0 BRA `(.L_x_2) ;
        /*0040*/                   VOTE.ANY P1, P1 ;
        /*0050*/              @!P1 BRA `(.L_x_1) ;
        /*0060*/                   FMUL R4, R4, R4 ;
.L_x_1:
        /*0070*/                   FMUL R4, R4, R4 ;
.L_x_2:
        /*0080*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0090*/              @!P2 BRA `(.L_x_0) ;
        /*00a0*/                   EXIT ;
"""


def test_what_a_vote_skips_is_not_on_the_common_path() -> None:
    (loop,) = sass.parse_sass(VOTING)["_Z3foov"].loops()
    assert len(loop) == 9
    opcodes = [i.opcode for i in loop.common_path().instructions]
    assert opcodes == ["VOTE.ANY", "FADD", "BRA", "STG.E.128", "BRA"]


def test_the_cheapest_pass_meets_what_is_asked_for() -> None:
    (loop,) = sass.parse_sass(VOTING)["_Z3foov"].loops()
    assert loop.cheapest_pass() == loop.common_path()
    opcodes = [i.opcode for i in loop.cheapest_pass("VOTE.ANY P1", "FMUL").instructions]
    assert opcodes == ["VOTE.ANY", "FADD", "BRA", "VOTE.ANY", "BRA", "FMUL", "STG.E.128", "BRA"]
    with pytest.raises(ValueError, match="has no pass through"):
        loop.cheapest_pass("ATOMS")


def test_a_kernel_is_found_by_its_identifier_or_by_part_of_its_mangled_name() -> None:
    names = ["_Z13normal_kernelPf", "_Z19trunc_normal_kernelPf", "_Z4fillIfEvPf", "_Z4fillIdEvPd"]
    assert find_kernel(names, "normal_kernel") == names[0]
    assert find_kernel(names, "fillId") == names[3]
    with pytest.raises(KeyError, match="expected one kernel named like 'fill'"):
        find_kernel(names, "fill")
