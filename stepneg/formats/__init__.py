"""The field's formats: samples as tables, TRL's preference data, the outputs of lm-evaluation-harness."""
