"""Image tables, splits, views, augmentation and loading: everything before the network."""
