"""What a device says when it fails. Torch has classes for some of it, and messages for the rest:
its CUDA libraries (cuBLAS, cuDNN …) raise plain RuntimeErrors.
"""

from __future__ import annotations

import re

import torch

_NO_MEMORY = ("out of memory", "can't allocate memory", "_STATUS_ALLOC_FAILED")
_LIBRARY_ERROR = re.compile(
    r"\bCUDA( driver)? error\b|\bcu(BLAS|DNN|FFT|solver|sparse)\w* error\b|\bTriton Error \[CUDA\]"
    r"|\bCU(BLAS|DNN|SOLVER|SPARSE)_STATUS_",
    re.IGNORECASE,
)
# It was asked for what it does not do; nothing is broken.
_REFUSED = re.compile(r"_STATUS_(NOT_SUPPORTED|BAD_PARAM|INVALID_VALUE)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once may succeed: of the device, or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in _NO_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether every further call in this process may fail the same way, whatever it computes."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return bool(_LIBRARY_ERROR.search(str(error))) and not _REFUSED.search(str(error))


def in_one_line(error: BaseException) -> str:
    """What it says first; torch goes on with advice for developers."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"[:300]
