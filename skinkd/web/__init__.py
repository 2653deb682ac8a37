"""A page on this machine that shows what a trained network says of an image."""
