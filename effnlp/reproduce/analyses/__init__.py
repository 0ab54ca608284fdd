"""Figures of experiments that are computed from runs or from stored tables, a module a subject."""
