"""The edge-ready ViT, its presets, weights and features: the second room."""
