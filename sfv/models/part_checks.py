"""Whether the parts of a world model follow their protocols and fit each other."""

from dataclasses import fields
from typing import Any

from torch import nn

from sfv.backbones.base import Backbone
from sfv.diffusion.schedule import NoiseSchedule


def check_part(name: str, part: nn.Module, protocol: type, kept_by: tuple[str, ...]) -> None:
    """What would only be missed when a trained model is saved is missed before training.

    Raises:
        ValueError: the part does not follow its protocol, or could not be saved.
    """
    if not isinstance(part, protocol):
        raise ValueError(
            f"{name} is a {type(part).__name__}, which is no sfv.types.{protocol.__name__}; "
            "see that protocol for the attributes and methods it must have"
        )
    lacking = [attribute for attribute in kept_by if not hasattr(part, attribute)]
    if lacking:
        raise ValueError(
            f"{name} is a {type(part).__name__}, which could not be saved: it lacks "
            f"{' and '.join(lacking)}. See those of the classes in sfv.models"
        )


def check_backbone(denoiser: nn.Module) -> None:
    """A denoiser is a `Backbone` that says its widths.

    Raises:
        ValueError: it is none, or does not.
    """
    if not isinstance(denoiser, Backbone):
        raise ValueError(
            f"denoiser is a {type(denoiser).__name__}, which is no {Backbone.__module__}.Backbone; derive "
            "it from that class, which says what it must have"
        )
    lacking = [name for name in ("latent_channels", "text_dim") if not hasattr(denoiser, name)]
    if lacking:
        raise ValueError(
            f"denoiser is a {type(denoiser).__name__} that does not set {' and '.join(lacking)}"
        )


def check_schedule(denoiser: Any, ours: NoiseSchedule) -> None:
    """Pretrained weights predict what they were trained to predict, at the noise levels of then.

    Raises:
        ValueError: the schedule is another one.
    """
    theirs = getattr(denoiser, "trained_schedule", None)
    for field in () if theirs is None else fields(ours):
        trained, given = getattr(theirs, field.name), getattr(ours, field.name)
        if trained != given:
            raise ValueError(
                f"the denoiser's weights were trained with {field.name} {trained} (its scheduler/ says), "
                f"but this model's schedule has {given}: set the schedule's {field.name} to {trained}, or "
                "give the unet/ folder alone as weights to train it on another schedule"
            )


def check_memory_input(denoiser: Any, ours: NoiseSchedule) -> None:
    """The prior of an addressed memory holds for flow, whose noise level is timestep / T.

    Raises:
        ValueError: the denoiser reads such a memory, but the schedule is another one.
    """
    if denoiser.memory_input is None:
        return
    if not ours.is_flow:
        raise ValueError(
            "the denoiser reads an addressed memory, which needs flow matching, but the schedule's "
            f"prediction_type is {ours.prediction_type}; set it to flow_prediction"
        )
    trained = denoiser.memory_input.num_train_timesteps
    if ours.num_train_timesteps != trained:
        raise ValueError(
            f"the denoiser reads an addressed memory at {trained} timesteps, but the schedule's "
            f"num_train_timesteps is {ours.num_train_timesteps}; set it to {trained}"
        )
