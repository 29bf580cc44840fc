"""Samplers, set up from our noise schedule: diffusers', and Euler's for flow."""

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from sfv.diffusion.flow import FlowEuler
from sfv.diffusion.sampler import SamplerName, Scheduler
from sfv.diffusion.schedule import NoiseSchedule


def make_scheduler(
    schedule: NoiseSchedule, name: SamplerName, num_inference_steps: int = 50
) -> Scheduler:
    """Build a sampler that denoises what `schedule` noised.

    Timesteps are spaced "trailing": sampling starts at the last training timestep, the one whose
    input is closest to the pure noise it is given, and ends at clean latents.

    Args:
        schedule: the schedule the denoiser was trained with.
        name: see `SamplerSettings`.
        num_inference_steps: denoiser calls a chunk; at most the schedule's number of timesteps.

    Raises:
        ValueError: if there are more steps than timesteps.
    """
    if not 1 <= num_inference_steps <= schedule.num_train_timesteps:
        raise ValueError(
            f"num_inference_steps is {num_inference_steps}; it must be from 1 to the schedule's "
            f"num_train_timesteps, {schedule.num_train_timesteps}"
        )
    if schedule.is_flow:
        return _flow_scheduler(schedule, name, num_inference_steps)
    config = {
        "num_train_timesteps": schedule.num_train_timesteps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.beta_schedule,
        "prediction_type": schedule.prediction_type,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "timestep_spacing": "trailing",
    }
    scheduler: Scheduler
    match name:
        case "ddim":
            scheduler = DDIMScheduler(**config, clip_sample=False)
        case "dpmsolver++":
            scheduler = DPMSolverMultistepScheduler(**config, algorithm_type="dpmsolver++")
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def _flow_scheduler(
    schedule: NoiseSchedule, name: SamplerName, num_inference_steps: int
) -> Scheduler:
    match name:
        case "ddim":
            return FlowEuler(schedule.num_train_timesteps, schedule.shift, num_inference_steps)
        case "dpmsolver++":
            scheduler: Scheduler = DPMSolverMultistepScheduler(
                num_train_timesteps=schedule.num_train_timesteps,
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=schedule.shift,
                algorithm_type="dpmsolver++",
            )
            scheduler.set_timesteps(num_inference_steps)
            return scheduler
