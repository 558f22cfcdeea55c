"""Running jobs: leases of GPUs, journals, child processes, memory estimates."""
