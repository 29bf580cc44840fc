"""A text-to-video pipeline in the public layout, shrunken, random, written by its own libraries."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sfv.backbones.video_unet import PRESETS

CHANNELS, TEXT_DIM, FACTOR = 4, 12, 4
PUBLIC_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def write_pipeline(folder: Path, **schedule: Any) -> Path:
    """Write `model_index.json`, `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`.

    Args:
        folder: new.
        schedule: changes to the public scheduler.
    """
    tokenizer = _tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = TextToVideoSDPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 16, 16),
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                latent_channels=CHANNELS,
                norm_num_groups=4,
                scaling_factor=0.18215,
            ),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=TEXT_DIM,
                    intermediate_size=20,
                    num_hidden_layers=2,
                    num_attention_heads=3,
                    bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
            ),
            tokenizer=tokenizer,
            unet=UNet3DConditionModel(
                **asdict(PRESETS["tiny"].with_channels(CHANNELS, TEXT_DIM, False))
            ),
            scheduler=DDIMScheduler(**{**PUBLIC_SCHEDULE, **schedule}),
        )
    pipeline.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """Letters and a few joins as tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{a}</w>" for a in letters), "le", "lef", "left</w>"]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    source = folder.with_name(f"{folder.name}-vocabulary")
    source.mkdir(parents=True)
    (source / "vocab.json").write_text(json.dumps(vocabulary))
    (source / "merges.txt").write_text("#version: 0.2\nl e\nle f\nlef t</w>\n")
    return CLIPTokenizer(str(source / "vocab.json"), str(source / "merges.txt"))
