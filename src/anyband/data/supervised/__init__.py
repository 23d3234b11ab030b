"""Labelled data for downstream tasks: files, tables, rasters of labels, and published data sets by name."""
