"""What the page shows of a network and of an image; it runs in the worker process."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from skinkd.data.decode import decode_image
from skinkd.data.transforms import eval_pipeline
from skinkd.explanation.maps import make_maps, methods_for
from skinkd.explanation.outputs import outputs_of
from skinkd.inference.trained import Trained, open_trained
from skinkd.scoring.metrics import per_class
from skinkd.scoring.predictions import read_predictions
from skinkd.web.examples import draw_examples
from skinkd.web.pictures import central_square, coloured_map
from skinkd.web.work import Opened
