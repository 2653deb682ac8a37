"""The configuration of every experiment, as the package skinkd.conf (Hydra search path pkg://skinkd.conf)."""
