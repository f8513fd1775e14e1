"""Operations on whole projects: overview, lookup and deletion."""
