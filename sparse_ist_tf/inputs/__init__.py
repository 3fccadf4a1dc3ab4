"""Images, masks and what crosses a thin link: the first room."""
