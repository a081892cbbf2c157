"""A CPU that Lightning's DeepSpeedStrategy takes for a GPU: it insists on CUDA, DeepSpeed itself does not."""

from typing import Any

import deepspeed
import torch
from lightning.pytorch.accelerators import CUDAAccelerator

# Gloo in place of an operator that a compiler would have to make first.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class OnCPU(CUDAAccelerator):
    """As many devices as are asked for, all of them this CPU."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing to set."""

    def setup(self, trainer: Any) -> None:
        """Nothing to set."""

    def teardown(self) -> None:
        """Nothing to free."""

    @staticmethod
    def parse_devices(devices: int | str) -> int:
        """Their number."""
        return int(devices)

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        """Numbered, as the strategy wants them."""
        return [torch.device("cpu", number) for number in range(devices)]

    @staticmethod
    def is_available() -> bool:
        """Always."""
        return True
