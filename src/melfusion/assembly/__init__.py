"""A configuration → objects: one file per kind of part."""
