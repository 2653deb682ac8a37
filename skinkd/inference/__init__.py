"""Using a trained network: opening it, reading images for it, and what it says of them."""
