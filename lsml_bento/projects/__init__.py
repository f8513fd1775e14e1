"""Projects seen as a whole: overview, lookup and deletion."""
