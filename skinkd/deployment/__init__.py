"""What is handed to whoever uses a trained network without this project: exported files, and what they are."""
