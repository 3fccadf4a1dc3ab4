"""Sparse input and sparse models: masked images, a frozen ViT and an IST-trained head."""

__version__ = "0.1.0"
