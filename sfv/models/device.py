"""Where a model computes."""

import torch

AUTO = "auto"


def find_device(given: str = AUTO) -> torch.device:
    """The device that a name stands for.

    Args:
        given: `auto` takes the GPU where there is one; or PyTorch's name: `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        ValueError: it is no device, or this machine or this build of PyTorch does not have it.
    """
    if given == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(given)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device {given!r} cannot be used here ({reason}); allowed: auto, cpu, and where PyTorch finds "
            "such a GPU cuda, cuda:N or mps"
        ) from error
    if device.type == "meta":
        raise ValueError("device 'meta' computes nothing; allowed: auto, cpu, cuda, cuda:N, mps")
    return device
