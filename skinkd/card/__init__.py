"""The model card: what a trained network is, for whom its scores hold, and where its limits are."""
