from . import charts as charts
from . import html as html
from .charts import Number as Number
from .typeset import NOTHING as NOTHING
from .typeset import look_up as look_up
from .typeset import shown as shown
