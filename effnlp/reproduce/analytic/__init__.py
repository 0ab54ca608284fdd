"""Figures that follow from shapes and formulae alone: counted or computed in seconds, without a run."""
