"""Which number format the matrix products of training and scoring are computed in, and why."""

from pathlib import Path

import torch


def product_dtype(device: torch.device, wanted: str) -> tuple[torch.dtype, str]:
    """The format that is `wanted`, and the reason.

    auto: bfloat16 where the hardware multiplies it, else float32, because emulated bfloat16 is the slower.
    """
    if wanted != "auto":
        return getattr(torch, wanted), "the setting asks for it"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, f"{name} has bfloat16"
        return torch.float32, f"{name} has no bfloat16"
    flags = _cpu_flags()
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        return torch.bfloat16, "the processor has bfloat16 instructions"
    return torch.float32, "the processor has no bfloat16 instructions"


def _cpu_flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return set()
