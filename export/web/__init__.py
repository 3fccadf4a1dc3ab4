"""A page that runs exported classifiers in a browser."""
