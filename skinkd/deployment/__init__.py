"""From a trained run to files that run without us: export, quantization, scores before and after."""
