from .explanation import explain as explain
from .manifest import MANIFEST as MANIFEST
from .manifest import Explained as Explained
from .manifest import album as album
from .manifest import index as index
from .manifest import inside as inside
from .manifest import stamp as stamp
