"""effnlp: the laboratory for efficient NLP.

Measured Pareto frontiers of quality against cost, over combinations of the method families of
Treviso et al. (2023), https://arxiv.org/abs/2209.00099
"""

__version__ = "0.1.0"
