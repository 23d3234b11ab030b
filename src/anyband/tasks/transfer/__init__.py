"""Downstream tasks: every protocol from labelled data and a checkpoint to scores, maps and a report."""
