"""What all processes of a backend agree on."""
