"""Integer arithmetic: ranges, rounding, quantization."""
