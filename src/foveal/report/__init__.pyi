from .page import sentence as sentence
from .page import write as write
