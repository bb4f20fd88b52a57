from . import detectors as detectors
from . import timing as timing
from .agreement import Evaluation as Evaluation
from .agreement import Tolerance as Tolerance
from .agreement import drawn as drawn
from .benchmark import bench as bench
