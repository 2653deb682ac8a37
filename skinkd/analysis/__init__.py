"""What the numbers of finished runs say: paired tests, calibration, comparison of methods."""
