"""From webhook events to training jobs that are due."""
