"""The Python face: layers, a classifier and runs for notebooks; `import sparse_ist_tf` has them."""
