"""Defences: each trains a model folder from another. One file each."""
