"""Weights on disk: our own safetensors files, and pretrained folders of diffusers and transformers."""
