"""stepneg: learn from the step where a wrong solution went wrong."""

__version__ = "0.1.0"
