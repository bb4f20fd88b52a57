"""Ultralytics with attentions: importing this module registers them in its parser and its trainers.

Every checkpoint with an attention names this module, so loading one imports it, and the workers of a multi-GPU training
import their trainers from here by name.
"""

from .hosts.ultralytics.models import Registered, load
from .hosts.ultralytics.trainers import *  # noqa: F403  (the host's trainers by name, and its models that have trainers)
from .hosts.ultralytics.trainers import __all__ as _trainers

__all__ = ["Registered", "load", *_trainers]
