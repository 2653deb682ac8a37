"""Networks: timm backbones as stages, pooled features and logits; heads; attention."""
