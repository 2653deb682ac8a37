"""The study of fine-tuned networks, docs/study.md: its rows, its runs, its archive, and its page docs/results.md."""
