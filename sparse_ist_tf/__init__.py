"""Sparse input and sparse models: masked images, a frozen ViT and an IST-trained head."""

__version__ = "0.2.0"
