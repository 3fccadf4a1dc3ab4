"""Devices as workers: subnets that train where the images are, over Flower."""
