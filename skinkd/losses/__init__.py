"""Pure functions on tensors: logits or features in, a scalar out, float32 (or wider) inside."""
