"""What two or more services of the gateway need, and nothing else."""

__version__ = "0.1.0"
