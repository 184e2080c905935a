"""HTTP: embeddings and rerank scores for other programs, within limits that are written down.

app > access, http_limits > routes and their dialects > engine > the model. `running` is the
process: it listens, says when it is ready, and on SIGTERM answers what it has accepted.
"""
