"""What crosses a thin link: messages of patches and features."""
