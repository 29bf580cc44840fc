"""Settings of training that cost or save time and memory and leave the numbers as they are."""

from torch import nn

from sfv.training.sharding import blocks_of


def compile_blocks(denoiser: nn.Module, backend: str) -> None:
    """Compile each large block of a backbone, so that shards are still gathered block by block.

    Raises:
        ValueError: the denoiser has no such blocks.
    """
    blocks = blocks_of(denoiser)
    if not blocks:
        raise ValueError(
            f"compile_backend is {backend!r}, but {type(denoiser).__name__} names no blocks to "
            "compile; set it to null, or define blocks"
        )
    for block in blocks:
        block.compile(backend=backend)
