"""Asking for memory before it is needed, inside compiled loops; what is asked for is the loop's business."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE_BYTES = 64  # of a cache line on x86 and most ARM; a wrong guess costs time, never a result


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of ``array[index]``, one-dimensional; reads nothing and never faults.

    The processor foresees what lies one after another, not rows of an image that are thousands of bytes apart.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        # LLVM's language reference; locality 1, the second cache: the first has few places for what is under way
        read, keep, is_data = word(0), word(1), word(1)
        builder.call(function, [place, read, keep, is_data])
        return context.get_dummy_value()

    return types.void(array, index), generate
