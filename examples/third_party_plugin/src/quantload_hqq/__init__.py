"""HQQ, half-quadratic quantization, for quantload."""
