"""Support for running jobs: GPU leases, journals, child processes, memory estimates."""
