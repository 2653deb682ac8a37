"""The run folder, its plots and tables, and the experiment trackers."""
