from .examination import Examined as Examined
from .examination import check as check
from .findings import Finding as Finding
from .findings import State as State
