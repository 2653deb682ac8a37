"""How the worker process opens a network. The server pickles this function, so that it need not import what is slow."""

import sys
from typing import Any

from skinkd.web.work import Opened


def open_network(settings: dict[str, Any]) -> Opened:
    """Open a run folder, a checkpoint or an exported folder for the page.

    Args:
        settings: those of conf/app.yaml, resolved.

    Raises:
        UserError: there is no such network, or a setting is out of range.
    """
    # timm imports wandb where it finds it, which takes seconds and makes temporary folders
    sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]
    from skinkd.web.answer import Answers  # imports torch, which takes seconds

    answers = Answers(settings)
    return Opened(answers.about(), answers.answer)
