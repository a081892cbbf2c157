"""Which step of a wrong solution went wrong: step boundaries, step values, the first pit, and what to train on."""
