"""Training: data, the explicit GradientTape loop, what it writes to TensorBoard, the command line."""
