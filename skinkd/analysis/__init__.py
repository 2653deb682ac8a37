"""The analysis of finished runs: paired tests, calibration, comparison of methods."""
