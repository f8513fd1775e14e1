"""The use cases behind the routes, free of HTTP."""
