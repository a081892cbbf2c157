"""The paper's experiments: each a function, a configuration, a table and a plot."""
