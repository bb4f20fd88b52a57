from .explanation import explain as explain
from .manifest import MANIFEST as MANIFEST
from .manifest import album as album
