"""What each method is: rewards, shapes, the losses made of them, and the registry that describes them."""

from una_ref.methods.axes import AXES
from una_ref.methods.method import KINDS, Method
from una_ref.methods.registry import METHODS, UnknownMethod, describe, table

__all__ = ["AXES", "KINDS", "METHODS", "Method", "UnknownMethod", "describe", "table"]
