"""From a due job to a promoted version."""
