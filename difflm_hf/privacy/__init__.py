"""
Differential privacy of training: what is read off the records, and what is learnt from them, is noisy enough that no
single one can be told.
"""
