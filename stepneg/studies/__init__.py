"""The paper's experiments: each a function, a configuration, a table and a plot."""

STUDIES = {  # command and module
    "theorem": "stepneg.studies.theorem",
    "credit": "stepneg.studies.credit",
    "spurious": "stepneg.studies.spurious",
    "likelihood": "stepneg.studies.spurious",
    "first_hop": "stepneg.studies.first_hop",
}
