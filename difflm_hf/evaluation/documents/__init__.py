"""How good generated documents are: JSON records, code, texts and tools, by counts, by execution and by a judge."""
