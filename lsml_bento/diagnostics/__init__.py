"""What `lsml-bento check` and `lsml-bento doctor` find."""
