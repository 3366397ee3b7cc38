"""normlab: the plumbing that the lessons of *Batch Norm, Executed* share.

What is taught stands in the lessons; what stands here was derived in one of them first.
Every process uses one CPU thread: notebooks and runs go side by side, and two torch threads on a
busy machine cost far more than they bring.
"""

import torch

__version__ = "1.0"

torch.set_num_threads(1)
