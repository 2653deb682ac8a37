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
    from skinkd.web.answer import Answers, in_base64  # imports torch, which takes seconds
    from skinkd.web.examples import draw_examples

    answers, examples = Answers(settings), draw_examples()
    # the first answer starts threads, whose memory must not count as that of an image
    answers.answer(next(iter(examples.values())))
    about = {
        **answers.about(),
        "examples": [{"name": name, "jpeg": in_base64(jpeg)} for name, jpeg in examples.items()],
    }
    return Opened(about, answers.answer)
