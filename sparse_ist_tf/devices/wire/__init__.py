"""What server and devices say to each other: records, forms of numbers; NumPy alone."""
