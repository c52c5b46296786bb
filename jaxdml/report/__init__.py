"""Pictures of what a model learned: `jaxdml.report.gallery`."""
