"""Recognition of device errors: out of memory, or a device that is lost.

Torch has classes for some of these errors. The others are recognised by their messages, because
torch's CUDA libraries (cuBLAS, cuDNN …) raise plain RuntimeErrors.
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
# The library refused the call; nothing is broken.
_REFUSED = re.compile(r"_STATUS_(NOT_SUPPORTED|BAD_PARAM|INVALID_VALUE)")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device or the host ran out of memory: less work at once may succeed."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in _NO_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Return whether every further call in this process may fail, whatever it computes."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return bool(_LIBRARY_ERROR.search(str(error))) and not _REFUSED.search(str(error))


def in_one_line(error: BaseException) -> str:
    """Return the error's type and first line. Torch's further lines advise its developers."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"[:300]
