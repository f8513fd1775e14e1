"""Directories as users of ``label_studio_ml`` have them: tests run them elsewhere."""

collect_ignore_glob = ["*"]
