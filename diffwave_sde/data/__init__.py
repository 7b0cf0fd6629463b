"""Sounds on disk, stores of them, and the datamodule that feeds training."""
