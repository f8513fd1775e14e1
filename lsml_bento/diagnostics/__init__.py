"""The checks of ``lsml-bento check`` and ``lsml-bento doctor``."""
