"""Score a trained network on other data: python -m skinkd.evaluate run=outputs/<run> data=isic2019."""

from omegaconf import DictConfig

from skinkd.config import cli


def evaluate(settings: DictConfig) -> None:
    """Score the network of ``run`` on those images of ``data`` that the run has not seen."""
    from skinkd.inference import other_data  # imports torch, which takes seconds

    other_data.evaluate(settings)


if __name__ == "__main__":
    cli.main(evaluate, "evaluate")
