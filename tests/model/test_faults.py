"""What torch says when a device fails. If these break, a sick GPU fails the whole catalog in
milliseconds an item, or a canvas that is too large ends its process."""

from __future__ import annotations

import pytest
import torch

from ace_tasks.model.faults import in_one_line, is_device_lost, is_out_of_memory

# As torch 2.x writes them (c10/cuda, ATen/cuda/Exceptions.h, ATen/cudnn/Exceptions.h).
LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(…)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDn…`"),
    RuntimeError("CUDA driver error: invalid device context"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
]
NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]
ORDINARY = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if …"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasLtMatmul(…)`"),
    ValueError("CUDA error: in a prompt"),
    KeyError("out of memory"),
]


def test_a_device_is_lost() -> None:
    for error in LOST:
        assert (is_device_lost(error), is_out_of_memory(error)) == (True, False), error


def test_less_work_at_once_may_do() -> None:
    for error in NO_MEMORY:
        assert (is_device_lost(error), is_out_of_memory(error)) == (False, True), error


def test_the_device_is_as_it_was() -> None:
    for error in ORDINARY:
        assert (is_device_lost(error), is_out_of_memory(error)) == (False, False), error


def test_torch_itself_says_so_when_the_host_has_no_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_an_error_is_reported_in_one_line() -> None:
    assert in_one_line(RuntimeError("first\nadvice")) == "RuntimeError: first"
    assert in_one_line(MemoryError()) == "MemoryError: "
