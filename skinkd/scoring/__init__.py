"""From predictions to numbers: metrics, bootstrap intervals, early exits, and the scores of a run."""
