"""The GPUs of a machine: what NVML tells of them."""
