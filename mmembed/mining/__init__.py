"""Hard negatives for rows, and filters of weak pairs, with any model as the teacher."""
