"""Training sources of texts, one module for each layout that they are published in.

pairs        columns of texts: query, positive, negatives (sentence-transformers, FlagEmbedding)
passages     lists of passages with ids (Tevatron, Castorini, DuReader)
judgements   a corpus, queries and judgements of their ids (BEIR, TREC, MS MARCO)
graded       two texts and a grade (STS, duplicates, NLI)
classes      a text and its label (classification, clustering)
claims       a claim, evidence and whether it supports the claim
reading      a passage, a question and its answers
"""
