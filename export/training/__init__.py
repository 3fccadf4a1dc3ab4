"""Files that train a subnet on a device, without TensorFlow there."""
