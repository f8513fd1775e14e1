"""Predictions for whole files and projects."""
