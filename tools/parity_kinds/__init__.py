"""What `tools/parity.py` can run: a table from the kind of a fixture to the class that answers for its tensors.

A fixture is data that was taken from the official modules: weights under official names, inputs, outputs, and a JSON
that says which module, which sizes and which conventions. `case` reads it, `rules` judges, `run` puts the parts
together; a `Runner` (in `base`) builds this project's modules from the fixture's config, brings the weights in through
the importer, and is asked for each tensor by name, so that none can be forgotten.
"""
