"""How people lay out images: folders in folders, tables of labels, arrays in a file."""
