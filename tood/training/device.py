"""Where to compute; imports torch alone, so that looking is quick."""

import torch


def choose_device(wanted: str) -> torch.device:
    """The device for "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        RuntimeError: "cuda" without a GPU that torch can use.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise RuntimeError(
            "the study wants a GPU, but torch finds no usable one (`tood doctor` shows what it sees); to go "
            "without, which at scale paper is good for a few iterations, pass --config device=cpu"
        )
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def describe(device: torch.device, number: int) -> str:
    """The device's name, such as "cpu" or "NVIDIA H200 x2" for two like it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if number == 1 else f"{name} x{number}"
