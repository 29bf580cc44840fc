"""Networks and their weights: denoisers, frame codecs, text encoders, Temp-LoRA."""
