"""What every test gets: one training thread, so that runs repeat bit for bit, and builders of small records."""

import torch

torch.set_num_threads(1)
