"""Networks that denoise: one file each, and what all of them share."""
