"""A search over settings: an Optuna study whose trials are runs."""
