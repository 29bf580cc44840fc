"""Equal results sooner on a CPU, for small video U-Nets; other devices compute as diffusers does.

- The backward pass of PyTorch's attention in bfloat16 costs several times that of two plain
  matrix products when there are tens of tokens, as in small latents and along time.
- A convolution along time is a 2D convolution over (frames, pixels), which oneDNN does faster.
"""

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_SHORT = 128
"""Up to how many tokens plain products win in bfloat16."""
_TINY = 32
"""Up to how many tokens products of bfloat16 matrices are slower than those of float32."""


class CPUAttention:
    """An attention processor of diffusers: plain products for short half-precision sequences.

    Everything else (other devices, longer sequences, masks, the variants of attention that
    `UNet3DConditionModel` does not use) goes through diffusers' own processor.
    """

    def __init__(self) -> None:
        self._stock = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attention_mask is not None or not _is_short(hidden_states, source) or _is_special(attn):
            output: Tensor = self._stock(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb
            )
            return output
        heads = [
            layer(states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, states in (
                (attn.to_q, hidden_states),
                (attn.to_k, source),
                (attn.to_v, source),
            )
        ]
        half = heads[0].dtype != torch.float32
        mixed = short_attention(*heads) if half else F.scaled_dot_product_attention(*heads)
        output = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return attn.to_out[1](output)  # type: ignore[no-any-return]


def short_attention(
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads m d"],
    value: Float[Tensor, "b heads m d"],
) -> Float[Tensor, "b heads n d"]:
    """`scaled_dot_product_attention` as two matrix products."""
    dtype, scale = value.dtype, query.shape[-1] ** -0.5
    with torch.autocast("cpu", enabled=False):
        if max(query.shape[-2], key.shape[-2]) <= _TINY:
            query, key, value = query.float(), key.float(), value.float()
        scores = (query * scale) @ key.transpose(-1, -2)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
        return (weights.to(value.dtype) @ value).to(dtype)


class TemporalConv(nn.Conv3d):
    """A `(k, 1, 1)` convolution that runs in 2D on a CPU; peft builds its LoRA from it too."""

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b k t h w"]:
        if input.device.type != "cpu":
            return super().forward(input)
        padding = (int(self.padding[0]), 0)
        flat = F.conv2d(input.flatten(3), self.weight.flatten(3), self.bias, padding=padding)
        return flat.unflatten(-1, input.shape[3:])  # type: ignore[no-untyped-call, no-any-return]

    @classmethod
    def sharing(cls, stock: nn.Conv3d) -> "TemporalConv":
        """The same layer (kernel 3, padding 1), over the same parameters."""
        channels = (stock.in_channels, stock.out_channels)
        layer = cls(*channels, (3, 1, 1), padding=(1, 0, 0), device="meta")
        layer.weight, layer.bias = stock.weight, stock.bias
        return layer


def speed_up_on_cpu(unet: UNet3DConditionModel) -> None:
    """Swap attention and temporal convolutions; names and weights stay."""
    unet.set_attn_processor(CPUAttention())
    for parent in list(unet.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv3d and _is_temporal(child):
                setattr(parent, name, TemporalConv.sharing(child))


def use_stock_layers(unet: UNet3DConditionModel) -> None:
    """Undo `speed_up_on_cpu`: a CPU then computes, and keeps for the backward pass, what a GPU does."""
    unet.set_attn_processor(AttnProcessor2_0())
    for parent in list(unet.modules()):
        for name, child in parent.named_children():
            if isinstance(child, TemporalConv):
                stock = nn.Conv3d(
                    child.in_channels,
                    child.out_channels,
                    (3, 1, 1),
                    padding=(1, 0, 0),
                    device="meta",
                )
                stock.weight, stock.bias = child.weight, child.bias
                setattr(parent, name, stock)


def _is_temporal(layer: nn.Conv3d) -> bool:
    return (
        layer.kernel_size == (3, 1, 1)
        and layer.padding == (1, 0, 0)
        and layer.stride == layer.dilation == (1, 1, 1)
        and layer.groups == 1
    )


def _is_short(hidden_states: Tensor, source: Tensor) -> bool:
    on_cpu = hidden_states.device.type == "cpu" and hidden_states.ndim == 3
    return on_cpu and max(hidden_states.shape[1], source.shape[1]) <= _SHORT


def _is_special(attn: Attention) -> bool:
    """Whether a layer uses a part of diffusers' attention that is not repeated here."""
    parts = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k, attn.norm_cross)
    return (
        any(part is not None for part in parts)
        or attn.residual_connection
        or attn.rescale_output_factor != 1.0
    )
