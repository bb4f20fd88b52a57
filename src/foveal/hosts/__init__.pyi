from . import zoo as zoo
from .recipe import Recipe as Recipe
from .zoo import add as add
