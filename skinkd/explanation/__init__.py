"""Where a trained network looks: maps of images, scores of the maps, and what the scores would be without a network."""
