"""The machine a plan is made for."""

import os

import torch

from wavalign.engine.compile.plan import Cluster


def detect_cluster() -> Cluster:
    """This machine."""
    gpus = torch.cuda.device_count()
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    memory = [torch.cuda.get_device_properties(index).total_memory for index in range(gpus)]
    return Cluster(gpus=gpus, gpu_bytes=min(memory, default=0), cores=os.cpu_count() or 1, host_bytes=pages * size)
