"""Fast weights with an address: written in closed form, read by pose (docs/concepts/addressed_memory.md).

A linear map W from keys k (features of a frame's pose, |k| = 1) to values v (the frame's latents, which a
codec centres on its training frames), fitted by recursive least squares. With the ridge λ, P_0 = I/λ and
W_0 = 0:

    write a chunk K, V:   S = I + K P K'    G = P K' S⁻¹    W ← W + G (V - K W)    P ← P - G K P
    read at a key:        r = k W           u = λ k P k'    in [0, 1]: 1 where nothing was written

After any number of chunks P = (K'K + λI)⁻¹ and W = P K'V over all frames written so far: ridge regression,
however the frames were cut into chunks. It is the Mesa layer's update (von Oswald et al., 2025, arXiv
2506.05233), and u is the variance of Bayesian linear regression as a share of its prior. Pure functions: a
write gives a new state. Differentiable in keys, latents and λ.

A chunk of f frames costs 2 f D² + 2 f D c h w multiplications, a read f D² + f D c h w. The state
never grows.

Letters beside those of `sfv.types`: `k` numbers D of a key, `v` numbers of a value, c·h·w in that order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class AddressedState:
    """The memories of e episodes; float32 however the network computes.

    Args:
        weights: W.
        covariance: P, symmetric.
        ridge: λ.
    """

    weights: Float[Tensor, "e k v"] = field(repr=False)
    covariance: Float[Tensor, "e k k"] = field(repr=False)
    ridge: Float[Tensor, " e"]

    def state_dict(self) -> dict[str, Tensor]:
        """Plain tensors under the names of the fields, for a safetensors file."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_state_dict(cls, tensors: dict[str, Tensor]) -> "AddressedState":
        """The state that `state_dict` gave.

        Raises:
            ValueError: a tensor is missing, unknown, of another shape than the others ask for, or λ is not
                above 0.
        """
        names = {item.name for item in fields(cls)}
        if set(tensors) != names:
            raise ValueError(
                f"an addressed memory holds {sorted(names)}, got {sorted(tensors)}; give the file of one"
            )
        e, k, v = tensors["weights"].shape if tensors["weights"].ndim == 3 else (0, 0, 0)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if not e or found != {"weights": (e, k, v), "covariance": (e, k, k), "ridge": (e,)}:
            raise ValueError(f"the tensors of an addressed memory do not fit each other: {found}")
        _check_ridge(tensors["ridge"])
        return cls(**{name: tensor.float() for name, tensor in tensors.items()})


def fresh(
    num_episodes: int,
    key_size: int,
    value_size: int,
    ridge: float | Float[Tensor, ""] | Float[Tensor, " e"] = 1e-2,
    device: torch.device | None = None,
) -> AddressedState:
    """Empty memories.

    Args:
        num_episodes: e.
        key_size: D.
        value_size: c·h·w.
        ridge: λ: the larger, the closer r stays to 0 and the more evenly noise is averaged out. A tensor
            may be learned. After 2,000 frames what float32 reads was off by 2e-5 to 1e-4 of its size for
            λ = 0.01, by up to 1e-3 for 0.001 and 2e-2 for 0.0001.
        device: of the tensors.

    Raises:
        ValueError: a size is below 1, or λ is not above 0.
    """
    if min(num_episodes, key_size, value_size) < 1:
        raise ValueError(
            f"an addressed memory got num_episodes={num_episodes}, key_size={key_size}, "
            f"value_size={value_size}; each must be at least 1"
        )
    ridges = torch.as_tensor(ridge, dtype=torch.float32, device=device).expand(num_episodes)
    _check_ridge(ridges)
    eye = torch.eye(key_size, device=ridges.device)
    return AddressedState(
        weights=eye.new_zeros(num_episodes, key_size, value_size),
        covariance=eye / ridges[:, None, None],
        ridge=ridges,
    )


def write(
    state: AddressedState,
    keys: Float[Tensor, "e t k"],
    latents: Float[Tensor, "e c t h w"],
) -> AddressedState:
    """The memories after one chunk more; the old state stays as it was.

    A key of zeros writes nothing. Keys and values that are both multiplied by √w count w times.

    Args:
        state: of e episodes.
        keys: of the chunk's frames, |k| = 1.
        latents: the chunk.
    """
    with torch.autocast(keys.device.type, enabled=False):
        keys, frames = keys.float(), as_values(latents).float()
        seen = state.covariance @ keys.mT
        eye = torch.eye(keys.shape[1], device=keys.device)
        gain = torch.cholesky_solve(seen.mT, _cholesky(eye + keys @ seen)).mT
        surprise = frames - keys @ state.weights
        covariance = state.covariance - gain @ seen.mT
        return AddressedState(
            weights=torch.baddbmm(state.weights, gain, surprise),
            covariance=(covariance + covariance.mT) / 2,
            ridge=state.ridge,
        )


def read(
    state: AddressedState, keys: Float[Tensor, "e t k"]
) -> tuple[Float[Tensor, "e t v"], Float[Tensor, "e t"]]:
    """What the memories say of frames that are seen from given poses.

    Args:
        state: of e episodes.
        keys: of the frames to come, or of any others; as many as are wanted.

    Returns:
        r, 0 where nothing was written; and u, from 0 (known) to 1 (nothing near was written).
    """
    with torch.autocast(keys.device.type, enabled=False):
        keys = keys.float()
        variance = ((keys @ state.covariance) * keys).sum(dim=2)
        uncertainty = (state.ridge[:, None] * variance).clamp(0, 1)
        return keys @ state.weights, uncertainty


def merge(
    states: Sequence[AddressedState], weights: Sequence[float] | None = None
) -> AddressedState:
    """One memory that has seen what each of them saw, as if all frames were written into the first.

    Exact up to rounding, in any order: ridge regression needs the sums of K'K and K'V alone. Costs about
    D³ + D² c h w a memory.

    Args:
        states: at least one.
        weights: how many times the frames of each count: the sums are multiplied by it. None: once.

    Raises:
        ValueError: there is none, they differ in shape or λ, or a weight is below 0.
    """
    if not states:
        raise ValueError("no memory to merge; give at least one")
    counts = [1.0] * len(states) if weights is None else list(weights)
    if len(counts) != len(states) or not all(0 <= count < inf for count in counts):
        raise ValueError(
            f"{len(states)} addressed memories are merged with weights {counts}; allowed: one for each, "
            "finite and 0 or more: how many times its frames count"
        )
    first = states[0]
    for other in states[1:]:
        shapes = [tuple(state.weights.shape) for state in (first, other)]
        if shapes[0] != shapes[1] or not torch.equal(first.ridge, other.ridge):
            raise ValueError(
                f"memories of shapes {shapes[0]} and {shapes[1]} with λ {first.ridge.tolist()} and "
                f"{other.ridge.tolist()} cannot be merged; both must be alike"
            )
    eye = torch.eye(first.weights.shape[1], dtype=torch.float64, device=first.weights.device)
    gram = first.ridge[:, None, None].double() * eye
    cross = torch.zeros_like(first.weights, dtype=torch.float64)
    for state, count in zip(states, counts, strict=True):
        keys, values = _sums(state)
        gram, cross = gram + count * keys, cross + count * values
    factor = _cholesky(gram)
    weights_of_all = torch.cholesky_solve(cross, factor).float()
    covariance = torch.cholesky_inverse(factor).float()
    return replace(first, weights=weights_of_all, covariance=covariance)


def as_values(latents: Float[Tensor, "e c t h w"]) -> Float[Tensor, "e t v"]:
    """Each frame as one row."""
    return latents.transpose(1, 2).flatten(2)


def as_latents(
    values: Float[Tensor, "e t v"], shape: tuple[int, int, int]
) -> Float[Tensor, "e c t h w"]:
    """The other way.

    Args:
        values: rows: of `read`, say.
        shape: c, h, w.
    """
    return values.reshape(*values.shape[:2], *shape).transpose(1, 2)


def _check_ridge(ridge: Float[Tensor, " e"]) -> None:
    if not bool((ridge.isfinite() & (ridge > 0)).all()):
        raise ValueError(f"ridge is {ridge.tolist()}; λ must be above 0 (0.01 is usual)")


def _sums(state: AddressedState) -> tuple[Tensor, Tensor]:
    """K'K and K'V in float64, from P = (K'K + λI)⁻¹ and W = P K'V."""
    precision = torch.cholesky_inverse(_cholesky(state.covariance.double()))
    eye = torch.eye(precision.shape[-1], dtype=torch.float64, device=precision.device)
    gram = precision - state.ridge[:, None, None].double() * eye
    return gram, precision @ state.weights.double()


def _cholesky(matrix: Float[Tensor, "e n n"]) -> Float[Tensor, "e n n"]:
    """The lower factor.

    Raises:
        ValueError: rounding has eaten the matrix's smallest eigenvalues, or a number is no number.
    """
    try:
        factor: Tensor = torch.linalg.cholesky(matrix)
        return factor
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ValueError(
            "an addressed memory has lost its precision: λ is too small for float32 (take a larger ridge, "
            "0.01 is usual), or keys or latents are no numbers"
        ) from error
